"""The data store: from raw tables to a Dataset on storage, and from there to a Panel."""

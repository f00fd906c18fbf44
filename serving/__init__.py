"""The Ray Serve application: a REST API of forecasts, and its web page."""

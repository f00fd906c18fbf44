"""The commands of `stmp`: arguments, help and examples of each; the work is that of the job of the same name."""

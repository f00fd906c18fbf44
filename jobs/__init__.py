"""What is run or submitted to a cluster: one module a job, and the `stmp` command line in front of them."""

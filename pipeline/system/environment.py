"""What the launcher tells the processes of a job by their environment."""

JOB = "HVG_JOB"  # set by the launcher in the processes of its job
# A file in which the workers of a job on one machine find each other: no port is open to the network for that.
MEETING = "HVG_MEETING"
LABELLED = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"  # torchrun's; set where it names node and rank before each line

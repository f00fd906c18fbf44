"""Meta-training of a dataset on storage: in this process, or on Ray Train with any number of workers."""

from stmp_platform.training.adaptation import Adaptation, adapt
from stmp_platform.training.driver import TrainingResult, train
from stmp_platform.training.job import Job, prepare

__all__ = ["Adaptation", "Job", "TrainingResult", "adapt", "prepare", "train"]

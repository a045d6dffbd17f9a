"""Models and their quality: the demo, training and evaluation; scikit-learn and Keras are imported when used."""

from ruo.learn.demo import Demo, make_demo, make_flows, make_testset
from ruo.learn.evaluation import Evaluation, evaluate
from ruo.learn.training import Trained, train

__all__ = ["Demo", "Evaluation", "Trained", "evaluate", "make_demo", "make_flows", "make_testset", "train"]

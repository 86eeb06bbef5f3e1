"""Every key of a config, with its type, its default and what it does.

The strings below the fields are the one description of each key: they become the descriptions in the JSON Schema that
editors show. Defaults follow Ren et al. 2015 where the paper speaks, torchvision's reference where it does not.
"""

from frcnn.config.schema.data import DataConfig
from frcnn.config.schema.model import ModelConfig
from frcnn.config.schema.section import Section
from frcnn.config.schema.train import EvalConfig, TrainConfig

__all__ = ["Config", "DataConfig", "EvalConfig", "ModelConfig", "Section", "TrainConfig"]


class Config(Section):
    """A whole experiment."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig(epochs=12)
    eval: EvalConfig = EvalConfig()

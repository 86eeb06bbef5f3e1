"""All keys of a config with their types, defaults and descriptions.

The string below a field is the only description of a key. The JSON Schema and docs/config_keys.md are generated from
them. Defaults follow Ren et al. 2015 where the paper gives a value, and torchvision's reference otherwise.
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

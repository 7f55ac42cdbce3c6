from .data.parts import DataError as DataError
from .files import StoreError as StoreError
from .notebook import configure as configure
from .plan import MissingRecords as MissingRecords
from .presets import figures as figures
from .presets import preset as preset
from .runner import run as run
from .settings import Config as Config
from .settings import ConfigError as ConfigError
from .training import Stopped as Stopped
from .training.train import pruner as pruner
from .training.train import trainer as trainer

__version__: str

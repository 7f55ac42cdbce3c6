from .data.parts import DataError as DataError
from .extents import Extent as Extent
from .extents import Study as Study
from .files import StoreError as StoreError
from .notebook import configure as configure
from .plan import MissingRecords as MissingRecords
from .presets import preset as preset
from .runner import run as run
from .settings import Setting as Setting
from .settings import SettingError as SettingError
from .training import Stopped as Stopped
from .training.train import pruner as pruner
from .training.train import trainer as trainer

__version__: str

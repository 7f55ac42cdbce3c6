from .config import Config as Config
from .config import ConfigError as ConfigError
from .data.parts import DataError as DataError
from .files import StoreError as StoreError
from .imp import Level as Level
from .imp import Ticket as Ticket
from .imp import iterative_magnitude_pruning as iterative_magnitude_pruning
from .imp import one_shot_pruning as one_shot_pruning
from .imp import random_pruning as random_pruning
from .imp import random_reinitialisation as random_reinitialisation
from .imp import subnetwork as subnetwork
from .masks import Mask as Mask
from .parameters import configure as configure
from .presets import figures as figures
from .presets import preset as preset
from .pruning import magnitude as magnitude
from .pruning import prune_global as prune_global
from .pruning import prune_layerwise as prune_layerwise
from .pruning import shuffle_within_layers as shuffle_within_layers
from .stability import angle as angle
from .stability import l2_distance as l2_distance
from .study.plan import MissingRecords as MissingRecords
from .study.run import run as run
from .training import Stopped as Stopped
from .training.train import pruner as pruner
from .training.train import trainer as trainer

__version__: str

from .items import Asked as Asked
from .items import Item as Item
from .items import Progress as Progress
from .items import run_items as run_items

"""For programs that ask a fleet: `from common.client import Client`. docs/clients.md shows it at work."""

from common.client.client import Client as Client
from common.client.client import News as News
from common.client.client import Reply as Reply
from common.client.client import Wishes as Wishes

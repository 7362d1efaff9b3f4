"""python -m camelid"""

from camelid.cli import entry

entry()

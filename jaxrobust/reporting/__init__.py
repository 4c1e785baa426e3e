"""What commands and studies share: mistakes as messages, tables, figures."""

from ._command import CommandError as CommandError
from ._command import main as main
from ._figures import save_figure as save_figure
from ._figures import subplots as subplots
from ._tables import Table as Table
from ._tables import print_table as print_table

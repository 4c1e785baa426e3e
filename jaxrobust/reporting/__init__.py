"""What commands and studies share: mistakes as messages, tables, figures."""

from ._command import CommandError as CommandError
from ._command import main as main
from ._command import option as option
from ._figures import save_figure as save_figure
from ._figures import subplots as subplots
from ._folder import ResultFolder as ResultFolder
from ._folder import read_json as read_json
from ._intervals import interval_of_percentage as interval_of_percentage
from ._tables import Table as Table
from ._tables import print_table as print_table

"""Call functions on minions as `salt` does, without a new Python for each; needs Salt's own.

A line of JSON in, [target, function, arguments, timeout]; a line out: what each minion returned, or
why none was asked.
"""

import json
import sys

from salt.client import LocalClient
from salt.exceptions import SaltException
from salt.utils.args import parse_input

for line in sys.stdin:
    target, function, arguments, timeout = json.loads(line)
    answer: object
    try:
        # A new client each time: the master may have been restarted.
        answer = LocalClient().cmd(target, function, parse_input(arguments), timeout=timeout)
    except SaltException as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)

"""AutoAttack."""

from ._run import AutoAttack as AutoAttack
from ._run import AutoAttackResult as AutoAttackResult
from ._run import Passes as Passes
from ._run import auto_attack as auto_attack
from ._stages import AttackName as AttackName

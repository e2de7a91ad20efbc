"""Members of a stack: one file a kind. `KINDS` names them; a new kind is one more file and one more line."""

from rapids_pipeline.stack.members.booster import BoosterMember
from rapids_pipeline.stack.members.composite import CompositeMember
from rapids_pipeline.stack.members.member import Member
from rapids_pipeline.stack.members.net import NetMember
from rapids_pipeline.stack.members.response_transfer import ResponseTransferMember
from rapids_pipeline.stack.members.svr import OwnTargetSvrMember, SvrMember

KINDS: dict[str, type[Member]] = {
    "svr": SvrMember,
    "own_target_svr": OwnTargetSvrMember,
    "composite": CompositeMember,
    "booster": BoosterMember,
    "net": NetMember,
    "response_transfer": ResponseTransferMember,
}

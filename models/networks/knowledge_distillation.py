"""Knowledge distillation (paper, section 4): the Session and Conversation networks teach a student for users of both modalities.

The student answers for users with both modalities, its teachers for users with one. The state is the three networks' states side
by side.
"""

from typing import ClassVar

import msgspec
import torch
from torch import Tensor

from models.features import FeatureBatch, Featurizer
from models.network import GruConfig, Network
from models.networks.late_fusion import FusionConfig, LateFusion, select_scores
from models.networks.two_branch import TwoBranchCore
from models.networks.unimodal import ConversationNetwork, SessionNetwork


class Student(Network):
    """The network for users with both modalities; not a system by itself."""

    default: ClassVar = GruConfig(hidden=128, dense=128, dropout=0.4)
    token_fields: ClassVar = ("tags",)
    uses_text_vectors: ClassVar = True

    def __init__(self, config: GruConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.core = TwoBranchCore(config, featurizer, len(prior))
        self.width = self.core.width

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return self.core.embed(inputs)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        return self.core.advance(states, rows)

    def logits(self, states: Tensor) -> Tensor:
        texts, _, hidden, _ = self.core.seen(states)
        return self.core.logits(texts, hidden)


class DistillationConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of both teachers and the student."""

    session: GruConfig = SessionNetwork.default
    conversation: GruConfig = ConversationNetwork.default
    student: GruConfig = Student.default


class KnowledgeDistillation(Network):
    """Scores a user with both modalities by the student, a user with one modality by its teacher."""

    default: ClassVar = DistillationConfig()
    token_fields: ClassVar = SessionNetwork.token_fields
    uses_text_vectors: ClassVar = True

    def __init__(self, config: DistillationConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.teachers = LateFusion(FusionConfig(session=config.session, conversation=config.conversation), featurizer, prior)
        self.student = Student(config.student, featurizer, prior)
        self.state_sizes = [*self.teachers.state_sizes, self.student.width]
        self.row_sizes = [sum(self.teachers.row_sizes), sum(self.student.core.row_sizes)]
        self.width = sum(self.state_sizes)

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return torch.cat([self.teachers.embed(inputs), self.student.embed(inputs)], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        teachers, student = torch.split(states, [self.teachers.width, self.student.width], dim=1)
        teacher_rows, student_rows = torch.split(rows, self.row_sizes, dim=1)
        return torch.cat([self.teachers.advance(teachers, teacher_rows), self.student.advance(student, student_rows)], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        return torch.logit(self.scores(states), eps=1e-6)

    def scores(self, states: Tensor) -> Tensor:
        session, conversation, student = torch.split(states, self.state_sizes, dim=1)
        by_session = self.teachers.session.scores(session)
        by_conversation = self.teachers.conversation.scores(conversation)
        return select_scores(session, conversation, by_session, by_conversation, self.student.scores(student))

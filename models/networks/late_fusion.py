"""Systems that hold several networks: Late fusion and Knowledge distillation (paper, section 4).

Their state is the networks' states side by side; those of Session and Conversation say themselves how many interactions of their
modality they saw, and so which network answers.
"""

from typing import ClassVar

import msgspec
import torch
from torch import Tensor

from models.features import FeatureBatch, Featurizer
from models.network import GruConfig, Network
from models.networks.imputation import Student
from models.networks.unimodal import ConversationNetwork, SessionNetwork


class FusionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the two networks."""

    session: GruConfig = SessionNetwork.default
    conversation: GruConfig = ConversationNetwork.default


class DistillationConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of both teachers and the student."""

    session: GruConfig = SessionNetwork.default
    conversation: GruConfig = ConversationNetwork.default
    student: GruConfig = Student.default


class LateFusion(Network):
    """Session and Conversation never meet before their scores: the mean of both probabilities where a user has both modalities,
    else the one there is.
    """

    default: ClassVar = FusionConfig()
    token_fields: ClassVar = SessionNetwork.token_fields
    uses_text_vectors: ClassVar = True

    def __init__(self, config: FusionConfig, reader: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.session = SessionNetwork(config.session, reader, prior)
        self.conversation = ConversationNetwork(config.conversation, reader, prior)
        self.parts = [self.session.width, self.conversation.width]
        self.row_parts = [self.session.gru.gates + 1, self.conversation.gru.gates + 1]
        self.width = sum(self.parts)

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return torch.cat([self.session.embed(inputs), self.conversation.embed(inputs)], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        session, conversation = torch.split(states, self.parts, dim=1)
        session_rows, conversation_rows = torch.split(rows, self.row_parts, dim=1)
        advanced = self.session.advance(session, session_rows), self.conversation.advance(conversation, conversation_rows)
        return torch.cat(advanced, dim=1)

    def logits(self, states: Tensor) -> Tensor:
        return torch.logit(self.scores(states), eps=1e-6)

    def scores(self, states: Tensor) -> Tensor:
        session, conversation = torch.split(states, self.parts, dim=1)
        by_session, by_conversation = self.session.scores(session), self.conversation.scores(conversation)
        return chosen(session, conversation, by_session, by_conversation, (by_session + by_conversation) / 2)


class KnowledgeDistillation(Network):
    """A student for users with both modalities, taught by Session and Conversation, which answer for users with one."""

    default: ClassVar = DistillationConfig()
    token_fields: ClassVar = SessionNetwork.token_fields
    uses_text_vectors: ClassVar = True

    def __init__(self, config: DistillationConfig, reader: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.teachers = LateFusion(FusionConfig(session=config.session, conversation=config.conversation), reader, prior)
        self.student = Student(config.student, reader, prior)
        self.parts = [*self.teachers.parts, self.student.width]
        self.row_parts = [sum(self.teachers.row_parts), sum(self.student.core.row_parts)]
        self.width = sum(self.parts)

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return torch.cat([self.teachers.embed(inputs), self.student.embed(inputs)], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        taught, own = torch.split(states, [self.teachers.width, self.student.width], dim=1)
        teacher_rows, own_rows = torch.split(rows, self.row_parts, dim=1)
        return torch.cat([self.teachers.advance(taught, teacher_rows), self.student.advance(own, own_rows)], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        return torch.logit(self.scores(states), eps=1e-6)

    def scores(self, states: Tensor) -> Tensor:
        session, conversation, student = torch.split(states, self.parts, dim=1)
        by_session = self.teachers.session.scores(session)
        by_conversation = self.teachers.conversation.scores(conversation)
        return chosen(session, conversation, by_session, by_conversation, self.student.scores(student))


def chosen(session: Tensor, conversation: Tensor, by_session: Tensor, by_conversation: Tensor, by_both: Tensor) -> Tensor:
    """Each user's scores by what the states of Session and Conversation saw; where that is nothing, both give popularity."""
    saw_session, saw_conversation = session[:, -1:] > 0, conversation[:, -1:] > 0
    return torch.where(saw_session & saw_conversation, by_both, torch.where(saw_session, by_session, by_conversation))

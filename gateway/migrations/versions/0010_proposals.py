"""proposals, and keys of agents"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_TEXTS = postgresql.ARRAY(sa.Text())
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("agent", postgresql.JSONB(none_as_null=True), nullable=True))
    op.create_table(
        "proposals",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("method", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("proposer_id", sa.Text(), nullable=True),
        sa.Column("state", sa.SmallInteger(), nullable=True),
        sa.Column("entity_ids", _TEXTS, nullable=False),
        sa.Column("expire_time", _TIME, nullable=True),
        sa.Column("decider_id", sa.Text(), nullable=True),
        sa.Column("decide_time", _TIME, nullable=True),
        sa.Column("decision_comment", sa.Text(), nullable=True),
        sa.Column("apply_time", _TIME, nullable=True),
        sa.Column("trace_id", sa.Text(), nullable=True),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("create_time", _TIME, nullable=True),
        sa.Column("update_time", _TIME, nullable=True),
        sa.Column("delete_time", _TIME, nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("proposals_pk")),
    )
    op.create_index("proposals_proposer_ix", "proposals", ["tenant_id", "proposer_id", "state"], unique=False)
    op.create_table(
        "proposal_contents",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("proposal_id", sa.Uuid(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=False),
        sa.Column("changes", postgresql.ARRAY(sa.LargeBinary()), nullable=False),
        sa.Column("principal_id", sa.Text(), nullable=False),
        sa.Column("scopes", _TEXTS, nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("access", sa.LargeBinary(), nullable=False),
        sa.Column("due_time", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "proposal_id", name=op.f("proposal_contents_pk")),
    )
    op.create_index(
        "proposal_contents_due_ix",
        "proposal_contents",
        ["due_time"],
        unique=False,
        postgresql_where=sa.text("due_time IS NOT NULL"),
    )
    op.create_table(
        "proposal_budgets",
        sa.Column("tenant_id", sa.Uuid(), nullable=False),
        sa.Column("principal_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "principal_id", "day", name=op.f("proposal_budgets_pk")),
    )

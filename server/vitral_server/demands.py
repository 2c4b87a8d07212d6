"""What a model has to be before it is opened, where the operator demands it: signed, proven."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from vitral.errors import ArtifactError
from vitral.spec import is_unproven, unproven
from vitral_engine.artifact import Artifact, open_artifact
from vitral_engine.signature import Trust

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demands:
    """What is demanded of every model.

    Attributes:
        trust: keys of which one has to have signed it; None: none has to.
        proven: whether it has to be proven.
    """

    trust: Trust | None
    proven: bool

    def open(self, folder: Path) -> Artifact:
        """The artifact of a version folder. An unproven one is told of in the log.

        Raises:
            ArtifactError: it is damaged, or is not what is demanded.
        """
        found = open_artifact(folder, trust=self.trust)
        if not is_unproven(found.spec):
            return found
        if self.proven:
            raise ArtifactError(f"only proven models are served here, and {unproven(found.spec)}")
        fields = {"model": found.name, "version": found.version, "reason": found.spec.proof.note}
        log.warning("model is unproven", extra=fields)
        return found

"""Documentation that the modules share: the run that asks."""

from __future__ import annotations


class ModuleDocFragment:
    """Whose lock it is."""

    DOCUMENTATION = r"""
options:
  run:
    description: >-
      The run that asks, as the callback baton.web.run says it in E(BATON_RUN). Its deploy lock is meant; none is
      without.
    type: dict
    suboptions:
      token:
        description: Name of the run.
        type: str
        required: true
      who:
        description: User and controller.
        type: str
        required: true
      process:
        description: Which process the run is; empty when unknown.
        type: str
        default: ""
"""

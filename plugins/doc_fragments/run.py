"""Documentation that the modules share: the calling run."""

from __future__ import annotations


class ModuleDocFragment:
    """The run that holds the deploy lock."""

    DOCUMENTATION = r"""
options:
  run:
    description: >-
      The calling run, in the format that the callback baton.web.run writes to E(BATON_RUN). The module uses the deploy
      lock of this run; without it, none.
    type: dict
    suboptions:
      token:
        description: Identifier of the run.
        type: str
        required: true
      who:
        description: User and controller.
        type: str
        required: true
      process:
        description: Process of the run; empty if unknown.
        type: str
        default: ""
"""

"""What a bundle for a data set should look like, from the data set's fingerprint: each choice with its reason.

Everything here is arithmetic on `rep3d.datasets.fingerprint.CaseFacts`; no file is opened.
"""

from rep3d.datasets.planning.plan import Plan, Schedule, plan_bundle

__all__ = ["Plan", "Schedule", "plan_bundle"]

"""Jobs and CronJobs."""

from __future__ import annotations

import datetime
import time

from ..api.model import ApiError, Obj, now, parse_time
from .base import Controller, each, from_template, is_over, is_ready, owner_reference, set_condition


class Jobs(Controller):
    watches = (("batch", "jobs"), ("", "pods"))

    def sync(self) -> None:
        each(self.store.list(self.kind("jobs", "batch")), self._one)

    def _one(self, job: Obj) -> None:
        meta, spec = job["metadata"], job["spec"]
        kind, pods_kind = self.kind("jobs", "batch"), self.kind("pods")
        if "deletionTimestamp" in meta:
            return
        status: Obj = dict(job.get("status") or {})
        conditions = list(status.get("conditions") or [])
        if any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions):
            self._after(job, conditions)
            return
        pods = self.owned(pods_kind, job)
        succeeded = sum(p["status"].get("phase") == "Succeeded" for p in pods)
        failed = sum(p["status"].get("phase") == "Failed" for p in pods)
        active = [p for p in pods if not is_over(p) and "deletionTimestamp" not in p["metadata"]]
        restarts = sum(c.get("restartCount", 0) for p in active for c in p.get("status", {}).get("containerStatuses") or [])
        wanted = spec.get("completions") or 1
        status.setdefault("startTime", now())
        over = ""
        if succeeded >= wanted:
            over = "Complete"
            conditions = set_condition(
                conditions, "SuccessCriteriaMet", "True", "CompletionsReached", "Reached expected number of succeeded pods"
            )
            conditions = set_condition(conditions, "Complete", "True", "CompletionsReached", "Reached expected number of succeeded pods")
            status["completionTime"] = now()
        elif failed + restarts > spec["backoffLimit"]:
            over = "Failed"
            conditions = set_condition(
                conditions, "FailureTarget", "True", "BackoffLimitExceeded", "Job has reached the specified backoff limit"
            )
            conditions = set_condition(conditions, "Failed", "True", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif spec.get("activeDeadlineSeconds") and time.time() - parse_time(status["startTime"]) > spec["activeDeadlineSeconds"]:
            over = "Failed"
            conditions = set_condition(conditions, "Failed", "True", "DeadlineExceeded", "Job was active longer than specified deadline")
        if over:
            for p in active:
                self.store.delete(pods_kind, p["metadata"]["namespace"], p["metadata"]["name"])
            active = []
            self.event(
                job,
                "Normal" if over == "Complete" else "Warning",
                "Completed" if over == "Complete" else "BackoffLimitExceeded",
                f"Job {over.lower()}",
            )
        elif not spec.get("suspend"):
            for _ in range(min(spec["parallelism"], wanted - succeeded) - len(active)):
                try:
                    pod = self.store.create(pods_kind, from_template(spec["template"], job))
                    active.append(pod)
                    self.event(job, "Normal", "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}")
                except ApiError as e:
                    self.event(job, "Warning", "FailedCreate", f"Error creating: {e}")
                    break
        status.update(
            active=len(active),
            succeeded=succeeded,
            failed=failed,
            ready=sum(is_ready(p) for p in active),
            conditions=conditions,
            terminating=sum("deletionTimestamp" in p["metadata"] for p in pods),
        )
        for key in ("active", "succeeded", "failed", "terminating"):
            if not status[key]:
                del status[key]
        self.set_status(kind, job, status)

    def _after(self, job: Obj, conditions: list[Obj]) -> None:
        """Finished Jobs go when their time is over."""
        keep = job["spec"].get("ttlSecondsAfterFinished")
        end = max(parse_time(c["lastTransitionTime"]) for c in conditions)
        if keep is not None and time.time() >= end + keep:
            self.store.delete(self.kind("jobs", "batch"), job["metadata"]["namespace"], job["metadata"]["name"])


_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def _field(text: str, low: int, high: int) -> set[int]:
    out: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        if span in ("*", "?"):
            first, last = low, high
        else:
            a, _, b = span.partition("-")
            first, last = int(a), int(b or (high if step else a))
        if not low <= first <= last <= high:
            raise ValueError(f"{text!r} is not within {low} to {high}")
        out |= set(range(first, last + 1, int(step or 1)))
    return out


def matches(schedule: str, at: datetime.datetime) -> bool:
    """Whether a cron schedule names that minute."""
    parts = _MACROS.get(schedule, schedule).split()
    if len(parts) != 5:
        raise ValueError(f"{schedule!r} has not five fields")
    minute, hour, day, month, weekday = (_field(p, *r) for p, r in zip(parts, _RANGES))
    if 7 in weekday:
        weekday.add(0)
    by_day, by_weekday = at.day in day, at.isoweekday() % 7 in weekday
    day_fits = by_day and by_weekday if "*" in (parts[2][:1], parts[4][:1]) else by_day or by_weekday
    return at.minute in minute and at.hour in hour and at.month in month and day_fits


class CronJobs(Controller):
    """Schedules are kept by a clock that may be faster than the real one: `speed` of its seconds pass in one."""

    watches = (("batch", "cronjobs"), ("batch", "jobs"))
    tick = 0.5
    speed = 60.0

    def sync(self) -> None:
        if not hasattr(self, "began"):
            self.began = time.time()
            self.seen: dict[str, float] = {}
        moment = self.began + (time.time() - self.began) * self.speed
        for cron in self.store.list(self.kind("cronjobs", "batch")):
            self._one(cron, moment)

    def _one(self, cron: Obj, moment: float) -> None:
        meta, spec = cron["metadata"], cron["spec"]
        if "deletionTimestamp" in meta:
            return
        last = self.seen.setdefault(meta["uid"], moment)
        due = False
        minute = (int(last) // 60 + 1) * 60
        while minute <= moment:
            due = due or matches(spec["schedule"], datetime.datetime.fromtimestamp(minute, datetime.timezone.utc))
            minute += 60
        self.seen[meta["uid"]] = moment
        jobs = self.owned(self.kind("jobs", "batch"), cron)

        def over(job: Obj, how: str) -> bool:
            return any(c["type"] == how and c["status"] == "True" for c in job.get("status", {}).get("conditions") or [])

        active = [j for j in jobs if not over(j, "Complete") and not over(j, "Failed")]
        status: Obj = dict(cron.get("status") or {})
        if due and not spec.get("suspend"):
            if spec["concurrencyPolicy"] == "Replace":
                for j in active:
                    self.store.delete(self.kind("jobs", "batch"), meta["namespace"], j["metadata"]["name"])
                active = []
            if not (spec["concurrencyPolicy"] == "Forbid" and active):
                active.append(self._start(cron, int(moment)))
                status["lastScheduleTime"] = now()
        for how, key in (("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")):
            done = sorted((j for j in jobs if over(j, how)), key=lambda j: j["metadata"]["creationTimestamp"])
            for j in done[: max(len(done) - spec[key], 0)]:
                self.store.delete(self.kind("jobs", "batch"), meta["namespace"], j["metadata"]["name"])
            if done and how == "Complete":
                status["lastSuccessfulTime"] = done[-1]["status"]["completionTime"]
        status["active"] = [
            {
                "kind": "Job",
                "apiVersion": "batch/v1",
                "name": j["metadata"]["name"],
                "namespace": meta["namespace"],
                "uid": j["metadata"]["uid"],
            }
            for j in active
        ]
        self.set_status(self.kind("cronjobs", "batch"), cron, status)

    def _start(self, cron: Obj, moment: int) -> Obj:
        template = cron["spec"]["jobTemplate"]
        meta = template.get("metadata") or {}
        job = self.store.create(
            self.kind("jobs", "batch"),
            {
                "metadata": {
                    "name": f"{cron['metadata']['name']}-{moment // 60}",
                    "namespace": cron["metadata"]["namespace"],
                    "labels": meta.get("labels") or {},
                    "annotations": meta.get("annotations") or {},
                    "ownerReferences": [owner_reference(cron)],
                },
                "spec": template["spec"],
            },
        )
        self.event(cron, "Normal", "SuccessfulCreate", f"Created job {job['metadata']['name']}")
        return job

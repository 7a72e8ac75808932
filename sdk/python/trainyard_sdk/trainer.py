"""Owns the callbacks of a trainer: which call is made when, and what stands in its body.

The address is a loopback endpoint of the node's agent, which stores a call on disk before it answers, so calls are
short and need no token. Without CALLBACK_URL every call is printed to standard output instead. Callers: trainers.
"""

from __future__ import annotations

import os
import sys
import time
import traceback as traceback_module
from types import TracebackType
from typing import Any, Dict, List, Literal, Mapping, Optional, Sequence, Set, Type, Union

from .bodies import Metrics, given, metrics_body, now
from .errors import CallbackError, ConfigError, describe
from .journal import NOWHERE, of_process
from .outbox import Kept, Outbox
from .transport import RETRY_DELAYS, Tries, post, to_json_value
from .waiting import Call, tell

PATIENCE = 600.0
"""Seconds for which the final call of a client that keeps its calls goes on trying."""

KEPT = "X-Trainyard-Kept"
"""The header that says how many calls are kept behind this one: the agent publishes no checkpoint while there are any,
for the report of its epoch may be among them. Where nothing was kept it is left out: another client of the job may keep
some."""


class TrainerSDK:
    """Client of one job. Also a context manager: an exception inside is reported as the job's failure.

    Args:
        callback_url: base that ends in ``/api/v1``; CALLBACK_URL when None; empty prints instead of sending.
        job_id: the job's number; JOB_ID when None.
        keep_undelivered: a report or a log line that found no answer is kept in memory and sent later, in order, so
            that training goes on while the agent is away. With False a report raises.
        patience: seconds for which the final call goes on trying after its four tries; 600 when None and calls are
            kept, else 0.
        retry_delays: seconds between tries; what is kept is tried again after the first of them. Without any a call is
            tried once, and where there is patience it goes by 2, 4 and 8 s.

    Raises:
        ConfigError: CALLBACK_URL is set and JOB_ID is missing or not a number.
    """

    def __init__(
        self,
        callback_url: Optional[str] = None,
        job_id: Union[int, str, None] = None,
        keep_undelivered: bool = True,
        patience: Optional[float] = None,
        retry_delays: Sequence[float] = RETRY_DELAYS,
    ) -> None:
        url = os.environ.get("CALLBACK_URL", "") if callback_url is None else callback_url
        self._base = url.strip().rstrip("/")
        self.job_id = _job_id(os.environ.get("JOB_ID", "") if job_id is None else job_id, required=bool(self._base))
        self._keep = keep_undelivered
        self._patience = (PATIENCE if keep_undelivered else 0.0) if patience is None else patience
        self._delays = tuple(retry_delays)
        self._outbox = self._empty_outbox()
        self._warned: Set[str] = set()
        self._started_at = time.monotonic()
        self._epoch = 0
        self._total_epochs = 1
        self._ended = False
        self._logs_down = False

    def __getstate__(self) -> Dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_outbox"}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._outbox = self._empty_outbox()

    @property
    def ended(self) -> bool:
        """True once completion or failure was reported; later reports of an end are ignored, and so are those that are
        made while one is under way."""
        return self._ended

    def report_started(self, total_epochs: int = 1, **extra: Any) -> Optional[Dict[str, Any]]:
        """Say that training starts: epoch 0, no metrics.

        Raises:
            CallbackError: as `report_progress`.
        """
        self._total_epochs = max(int(total_epochs), 1)
        body = {
            "job_id": self.job_id,
            "status": "running",
            "current_epoch": 0,
            "total_epochs": self._total_epochs,
            "progress_percent": 0.0,
            "metrics": None,
        }
        body.update(given(extra))
        return self._deliver(f"training/jobs/{self.job_id}/callback/progress", body)

    def report_progress(
        self,
        epoch: int,
        total_epochs: Optional[int] = None,
        metrics: Optional[Metrics] = None,
        checkpoint_path: Optional[str] = None,
        best_checkpoint_path: Optional[str] = None,
        learning_rate: Optional[float] = None,
        **extra: Any,
    ) -> Optional[Dict[str, Any]]:
        """Report a finished epoch.

        Args:
            epoch: number of the epoch, from 1.
            total_epochs: planned epochs; that of `report_started` when None.
            metrics: any names; `loss`, `accuracy` and `learning_rate` also get fields of their own.
            checkpoint_path, best_checkpoint_path: where the files are, absolute.
            learning_rate: fills the field of that name without adding it to the other metrics.
            extra: further fields of the callback, e.g. `epoch_duration_seconds`, `estimated_time_remaining`.

        Returns:
            The answer, or None when calls are printed or this one was kept for later.

        Raises:
            CallbackError: not accepted; with `keep_undelivered` only for an answer below 500.
        """
        self._epoch = max(self._epoch, int(epoch))
        self._total_epochs = max(int(total_epochs or self._total_epochs), 1)
        body = {
            "job_id": self.job_id,
            "status": "running",
            "current_epoch": int(epoch),
            "total_epochs": self._total_epochs,
            "progress_percent": round(min(100.0 * int(epoch) / self._total_epochs, 100.0), 2),
            "metrics": metrics_body(metrics, learning_rate),
        }
        body.update(given({"checkpoint_path": checkpoint_path, "best_checkpoint_path": best_checkpoint_path, **extra}))
        return self._deliver(f"training/jobs/{self.job_id}/callback/progress", body)

    def report_validation(
        self,
        epoch: int,
        task_type: str,
        metrics: Optional[Metrics] = None,
        primary_metric_name: Optional[str] = None,
        primary_metric_value: Optional[float] = None,
        overall_loss: Optional[float] = None,
        **extra: Any,
    ) -> Optional[Dict[str, Any]]:
        """Report a validation pass; `extra` takes `per_class_metrics`, `confusion_matrix`, `class_names` and so on.

        Raises:
            CallbackError: as `report_progress`.
        """
        body: Dict[str, Any] = {"job_id": self.job_id, "epoch": int(epoch), "task_type": task_type}
        named = {
            "primary_metric_name": primary_metric_name,
            "primary_metric_value": primary_metric_value,
            "overall_loss": overall_loss,
            "metrics": dict(metrics) if metrics is not None else None,
        }
        body.update(given({**named, **extra}))
        return self._deliver(f"validation/jobs/{self.job_id}/results", body)

    def report_completed(
        self,
        final_metrics: Optional[Metrics] = None,
        best_checkpoint_path: Optional[str] = None,
        last_checkpoint_path: Optional[str] = None,
        total_epochs_completed: Optional[int] = None,
        best_metrics: Optional[Metrics] = None,
        **extra: Any,
    ) -> Optional[Dict[str, Any]]:
        """Say that training ended well; `total_epochs_completed` is the last reported epoch when None.

        Raises:
            CallbackError: not accepted; the process should then exit with code 2.
        """
        body = {
            "status": "completed",
            "total_epochs_completed": self._epoch if total_epochs_completed is None else int(total_epochs_completed),
            "final_metrics": metrics_body(final_metrics),
            "best_metrics": metrics_body(best_metrics),
            "best_checkpoint_path": best_checkpoint_path,
            "last_checkpoint_path": last_checkpoint_path,
            "exit_code": 0,
            **extra,
        }
        return self._end(body)

    def report_failed(
        self,
        error: Union[BaseException, str],
        traceback: Optional[str] = None,
        error_type: Optional[str] = None,
        exit_code: int = 1,
        **extra: Any,
    ) -> Optional[Dict[str, Any]]:
        """Say that training failed.

        Args:
            error: the exception, or a text; a text that does not start with a type in brackets gets one.
            traceback: the formatted traceback; taken from the exception when None.
            error_type: the type to print; guessed from the exception when None.
            exit_code: what the process will exit with, not 0.

        Raises:
            CallbackError: not accepted; the process should then exit with code 2.
        """
        if isinstance(error, BaseException):
            message = describe(error, error_type)
            if traceback is None:
                lines = traceback_module.format_exception(type(error), error, error.__traceback__)
                traceback = "".join(lines)
        else:
            message = error if error.startswith("[") and not error_type else f"[{error_type or 'UnknownError'}] {error}"
        body = {
            "status": "failed",
            "total_epochs_completed": self._epoch,
            "error_message": message,
            "traceback": traceback,
            "exit_code": exit_code,
            **extra,
        }
        return self._end(body)

    def log(
        self, message: str, level: str = "INFO", event_type: str = "log", data: Optional[Mapping[str, Any]] = None
    ) -> bool:
        """Send a message, one call a line. Never raises, and with `keep_undelivered` waits for no agent that is away.

        What can neither be sent nor kept goes to standard error, and the answer is False.
        """
        taken = True
        for line in str(message).splitlines() or [""]:
            body = {
                "job_id": self.job_id,
                "event_type": event_type,
                "message": line,
                "level": level.upper(),
                "timestamp": now(),
            }
            if data is not None:
                body["data"] = dict(data)
            taken = self._say(to_json_value(body)) and taken
        return taken

    def flush(self, patience: float = 0.0) -> None:
        """Send what `keep_undelivered` has kept; a warning tells what is refused.

        Args:
            patience: seconds after which it gives up, also where it is still waiting for an answer; with 0 it gives up
                at the fourth try that fails.

        Raises:
            CallbackError: no answer; what is left stays kept.
        """
        tries = Tries(self._delays or RETRY_DELAYS, patience, bounded=True) if patience > 0 else Tries(self._delays)
        self._own_outbox().send_all(tries)

    def __enter__(self) -> "TrainerSDK":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> Literal[False]:
        """Report a failure and let the exception pass on; a failed callback ends the process with code 2."""
        if error is None or self._ended:
            return False
        if isinstance(error, CallbackError):
            print(f"callback failed: {error}", file=sys.stderr, flush=True)
            raise SystemExit(2) from error
        clean_exit = isinstance(error, SystemExit) and error.code in (None, 0)
        if clean_exit or not isinstance(error, (Exception, SystemExit)):
            return False  # KeyboardInterrupt is a signal: the agent judges it by the exit status
        exit_code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        try:
            self.report_failed(error, exit_code=exit_code)
        except CallbackError as failure:
            print(f"callback failed: {failure}", file=sys.stderr, flush=True)
            raise SystemExit(2) from error
        return False

    def _end(self, body: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Send the one final call. While it is under way another end is ignored too: a handler's, or a thread's."""
        ending = self._own_outbox().ending
        if not ending.acquire(blocking=False):
            self._ignore_end(body)
            return None
        try:
            if self._ended:
                self._ignore_end(body)
                return None
            body.setdefault("total_duration_seconds", round(time.monotonic() - self._started_at, 3))
            full = {"job_id": self.job_id, **given(body)}
            path = f"training/jobs/{self.job_id}/callback/completion"
            delays = self._delays or (RETRY_DELAYS if self._patience > 0 else ())
            answer = self._deliver(path, full, Tries(delays, self._patience))
            self._ended = True
            return answer
        finally:
            ending.release()

    def _ignore_end(self, body: Mapping[str, Any]) -> None:
        self.log(f"the end of the job was already reported; status {body['status']} is ignored", level="WARNING")

    def _deliver(self, path: str, body: Dict[str, Any], last: Optional[Tries] = None) -> Optional[Dict[str, Any]]:
        """Send a call after those that are still waiting, in order; keep it for later when that is allowed."""
        bad: List[str] = []
        call = Call(path, to_json_value(body, bad=bad))
        self._warn_not_finite(bad)
        if not self._base:
            _print_call(call)
            return None
        if self._keep and last is None:
            return self._own_outbox().report(call)
        return self._own_outbox().last(call, last or Tries(self._delays))

    def _say(self, body: Dict[str, Any]) -> bool:
        """Send one line, or keep it. While nobody answers it is tried once: training must not wait for its logs."""
        call, outbox = Call(f"training/jobs/{self.job_id}/callback/logs", body), self._own_outbox()
        if not self._base:
            _print_call(call)
            return True
        try:
            if self._keep:
                return outbox.line(call) or _print_line(body, "too many wait to be sent")
            outbox.last(call, Tries(() if self._logs_down else self._delays))
            self._logs_down = False
            return True
        except CallbackError as error:
            self._logs_down = error.transient
            return _print_line(body, str(error))

    def _own_outbox(self) -> Outbox:
        """That of this process: what its parent keeps is the parent's to send, and so are its locks."""
        if self._outbox.process != os.getpid():
            self._outbox = self._empty_outbox()
        return self._outbox

    def _empty_outbox(self) -> Outbox:
        # What is said to somebody else than the agent is none of its business.
        is_agent = bool(self._base) and self._base == os.environ.get("CALLBACK_URL", "").strip().rstrip("/")
        journal = of_process() if self._keep and is_agent else NOWHERE
        return Outbox(self._send, self._drop, self._delays, self._patience, journal)

    def _send(self, call: Call, kept: Kept, tries: Tries) -> Optional[Dict[str, Any]]:
        def headers() -> Dict[str, str]:
            number = kept()
            return {} if number is None else {KEPT: str(number)}

        return post(f"{self._base}/{call.path}", call.data, tries, headers)

    def _drop(self, call: Call, error: CallbackError, kept: Kept) -> None:
        """Say that a call that was kept is refused."""
        if call.is_line:
            _print_line(call.body(), str(error))
            return
        name = "validation" if call.path.endswith("/results") else call.path.rsplit("/", 1)[-1]
        words = f"the kept {name} report of epoch {call.epoch} is dropped, it was refused: {error}"
        line = {"job_id": self.job_id, "event_type": "log", "message": words, "level": "WARNING", "timestamp": now()}
        try:
            self._send(Call(f"training/jobs/{self.job_id}/callback/logs", line), kept, Tries(()))
        except CallbackError as failure:
            _print_line(line, str(failure))

    def _warn_not_finite(self, paths: List[str]) -> None:
        """Say once for each name that a value was not a finite number."""
        names = {path.rsplit(".", 1)[-1] for path in paths} - self._warned
        if names:
            self._warned |= names
            self.log(f"not a finite number, sent as null: {', '.join(sorted(names))}", level="WARNING")


def _print_call(call: Call) -> None:
    """Where calls go that have no address."""
    print(f"[trainyard] {call.path.rsplit('/', 1)[-1]} {call.data.decode()}", flush=True)


def _print_line(body: Mapping[str, Any], why: str) -> bool:
    """Where a line goes that is not sent; False, the answer of `log`."""
    tell(f"{body['level']}: {body['message']} (log line not delivered: {why})")
    return False


def _job_id(value: Union[int, str], required: bool) -> int:
    text = str(value).strip()
    if not text and not required:
        return 0
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"JOB_ID is {text!r}, but must be the whole number of the job") from None

"""Checks the trainer SDK against a recording endpoint: exact bodies, retries, and the ways a job can end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import unittest
from typing import Any, Dict, List
from unittest import mock

from support import Platform

import trainyard_sdk
from trainyard_sdk import (
    CallbackError,
    ConfigError,
    DatasetError,
    TrainerConfig,
    TrainerSDK,
    classify,
    describe,
)
from trainyard_sdk.transport import post_json


class SdkCase(unittest.TestCase):
    def setUp(self) -> None:
        self.platform = Platform()
        self.addCleanup(self.platform.close)
        self.sdk = TrainerSDK(self.platform.url, 7, retry_delays=(0.0, 0.0, 0.0))


class Bodies(SdkCase):
    def test_started_is_a_progress_call_of_epoch_zero(self) -> None:
        answer = self.sdk.report_started(total_epochs=5)
        path, body = self.platform.calls[0]
        self.assertEqual(path, "/api/v1/training/jobs/7/callback/progress")
        self.assertEqual(
            body,
            {
                "job_id": 7,
                "status": "running",
                "current_epoch": 0,
                "total_epochs": 5,
                "progress_percent": 0.0,
                "metrics": None,
            },
        )
        self.assertEqual(answer, {"success": True, "message": "recorded"})

    def test_progress_repeats_all_metrics_as_extra(self) -> None:
        metrics = {"loss": 0.5, "accuracy": 0.9, "learning_rate": 0.01, "mAP50-95": 0.25}
        self.sdk.report_progress(
            epoch=2, total_epochs=4, metrics=metrics, checkpoint_path="/c/last.pt", best_checkpoint_path="/c/best.pt"
        )
        self.assertEqual(
            self.platform.calls[0][1],
            {
                "job_id": 7,
                "status": "running",
                "current_epoch": 2,
                "total_epochs": 4,
                "progress_percent": 50.0,
                "metrics": {"loss": 0.5, "accuracy": 0.9, "learning_rate": 0.01, "extra_metrics": metrics},
                "checkpoint_path": "/c/last.pt",
                "best_checkpoint_path": "/c/best.pt",
            },
        )

    def test_validation(self) -> None:
        self.sdk.report_validation(
            epoch=1,
            task_type="detection",
            metrics={"mAP50": 0.4},
            primary_metric_name="mAP50",
            primary_metric_value=0.4,
        )
        path, body = self.platform.calls[0]
        self.assertEqual(path, "/api/v1/validation/jobs/7/results")
        self.assertEqual(
            body,
            {
                "job_id": 7,
                "epoch": 1,
                "task_type": "detection",
                "metrics": {"mAP50": 0.4},
                "primary_metric_name": "mAP50",
                "primary_metric_value": 0.4,
            },
        )

    def test_completion(self) -> None:
        self.sdk.report_progress(3, 3, {"loss": 0.1})
        self.sdk.report_completed({"loss": 0.1, "accuracy": 0.8}, best_checkpoint_path="/b", last_checkpoint_path="/l")
        path, body = self.platform.calls[1]
        self.assertEqual(path, "/api/v1/training/jobs/7/callback/completion")
        self.assertGreaterEqual(body.pop("total_duration_seconds"), 0)
        self.assertEqual(
            body,
            {
                "job_id": 7,
                "status": "completed",
                "total_epochs_completed": 3,
                "final_metrics": {
                    "loss": 0.1,
                    "accuracy": 0.8,
                    "learning_rate": None,
                    "extra_metrics": {"loss": 0.1, "accuracy": 0.8},
                },
                "best_checkpoint_path": "/b",
                "last_checkpoint_path": "/l",
                "exit_code": 0,
            },
        )

    def test_failure(self) -> None:
        self.sdk.report_failed(DatasetError("no images"), traceback="Traceback …")
        body = self.platform.calls[0][1]
        body.pop("total_duration_seconds")
        self.assertEqual(
            body,
            {
                "job_id": 7,
                "status": "failed",
                "total_epochs_completed": 0,
                "error_message": "[DatasetError] no images",
                "traceback": "Traceback …",
                "exit_code": 1,
            },
        )

    def test_log_is_one_call_a_line(self) -> None:
        self.assertTrue(self.sdk.log("one\ntwo", level="warning", data={"k": 1}))
        bodies = self.platform.bodies("/training/jobs/7/callback/logs")
        for body in bodies:
            self.assertRegex(body.pop("timestamp"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$")
        common = {"job_id": 7, "event_type": "log", "level": "WARNING", "data": {"k": 1}}
        self.assertEqual(bodies, [{**common, "message": "one"}, {**common, "message": "two"}])

    def test_module_functions_send_the_same(self) -> None:
        trainyard_sdk.reset_default_sdk()
        self.addCleanup(trainyard_sdk.reset_default_sdk)
        with mock.patch.dict(os.environ, {"CALLBACK_URL": self.platform.url + "/", "JOB_ID": "9"}):
            trainyard_sdk.report_started(total_epochs=1)
            trainyard_sdk.log("hello")
            trainyard_sdk.report_progress(epoch=1, total_epochs=1, metrics={"loss": 1.0}, checkpoint_path="/c")
            trainyard_sdk.report_validation(epoch=1, task_type="pose")
            trainyard_sdk.report_completed({"loss": 1.0})
            trainyard_sdk.report_failed("too late")
        paths = [path.split("/api/v1/")[1] for path, _ in self.platform.calls]
        job = "training/jobs/9/callback"
        self.assertEqual(
            paths,
            [
                f"{job}/progress",
                f"{job}/logs",
                f"{job}/progress",
                "validation/jobs/9/results",
                f"{job}/completion",
                f"{job}/logs",  # the second end is a warning, not a call
            ],
        )


class NotFinite(SdkCase):
    def test_becomes_null_and_is_mentioned_once(self) -> None:
        for epoch in (1, 2):
            self.sdk.report_progress(epoch, 2, {"loss": float("nan"), "top": [float("inf"), 1.0]})
        for raw in self.platform.raw:
            self.assertNotRegex(raw, rb"NaN|Infinity")
        metrics = self.platform.bodies("progress")[0]["metrics"]
        self.assertIsNone(metrics["loss"])
        self.assertEqual(metrics["extra_metrics"], {"loss": None, "top": [None, 1.0]})
        logs = self.platform.bodies("logs")
        self.assertEqual(len(logs), 1)
        self.assertEqual(logs[0]["level"], "WARNING")
        self.assertIn("loss", logs[0]["message"])

    def test_values_of_array_libraries_are_unwrapped(self) -> None:
        class Scalar:
            def item(self) -> float:
                return 0.25

        self.sdk.report_progress(1, 1, {"loss": Scalar()})
        self.assertEqual(self.platform.calls[0][1]["metrics"]["loss"], 0.25)


class Retries(SdkCase):
    def test_500_is_tried_four_times_with_growing_delays(self) -> None:
        self.platform.answers = [500, 502, 503, 200]
        waits: List[float] = []
        answer = post_json(f"{self.platform.url}/x", {}, sleep=waits.append)
        self.assertEqual(waits, [2.0, 4.0, 8.0])
        self.assertEqual(len(self.platform.calls), 4)
        self.assertEqual(answer, {"success": True, "message": "recorded"})

    def test_gives_up_after_the_fourth(self) -> None:
        self.platform.answers = [500] * 9
        sdk = TrainerSDK(self.platform.url, 7, keep_undelivered=False, retry_delays=(0.0, 0.0, 0.0))
        with self.assertRaises(CallbackError) as caught:
            sdk.report_progress(1, 1, {})
        self.assertEqual((caught.exception.status, caught.exception.attempts), (500, 4))
        self.assertEqual(len(self.platform.calls), 4)

    def test_400_is_not_tried_again(self) -> None:
        self.platform.answers = [400]
        with self.assertRaises(CallbackError) as caught:
            self.sdk.report_progress(1, 1, {})
        self.assertEqual((caught.exception.status, caught.exception.attempts), (400, 1))
        self.assertFalse(caught.exception.transient)

    def test_redirect_is_an_error_not_a_get(self) -> None:
        self.platform.answers = [302]
        with self.assertRaises(CallbackError):
            self.sdk.report_started(1)
        self.assertEqual(len(self.platform.calls), 1)

    def test_no_answer_is_a_network_error(self) -> None:
        self.platform.close()
        sdk = TrainerSDK(self.platform.url, 7, keep_undelivered=False, retry_delays=(0.0, 0.0, 0.0))
        with self.assertRaises(CallbackError) as caught:
            sdk.report_started(1)
        self.assertIsNone(caught.exception.status)
        self.assertEqual(caught.exception.attempts, 4)
        self.assertEqual(caught.exception.error_type, "NetworkError")

    def test_a_log_line_that_cannot_be_sent_goes_to_stderr(self) -> None:
        self.platform.answers = [404]
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            self.assertFalse(self.sdk.log("lost words"))
        self.assertIn("lost words", err.getvalue())

    def test_kept_calls_go_out_in_order_before_the_next(self) -> None:
        sdk = TrainerSDK(self.platform.url, 7, retry_delays=())
        self.platform.answers = [503]
        with contextlib.redirect_stderr(io.StringIO()):
            sdk.report_progress(1, 3, {})
            sdk.report_progress(2, 3, {})
        self.platform.calls.clear()
        sdk.report_completed({})
        numbers = [body.get("current_epoch") for _, body in self.platform.calls]
        self.assertEqual(numbers, [1, 2, None])

    def test_a_kept_call_that_is_refused_is_dropped_alone(self) -> None:
        sdk = TrainerSDK(self.platform.url, 7, retry_delays=())
        self.platform.answers = [503]
        with contextlib.redirect_stderr(io.StringIO()):
            for epoch in (1, 2, 3):
                sdk.report_progress(epoch, 3, {})
        self.platform.calls.clear()
        self.platform.answers = [200, 422]
        sdk.report_completed({})
        self.assertTrue(sdk.ended)
        sent = [(path.rsplit("/", 1)[-1], body.get("current_epoch")) for path, body in self.platform.calls]
        wanted = [("progress", 1), ("progress", 2), ("logs", None), ("progress", 3), ("completion", None)]
        self.assertEqual(sent, wanted)
        warning = self.platform.bodies("logs")[0]
        self.assertEqual(warning["level"], "WARNING")
        self.assertIn("progress report of epoch 2 is dropped", warning["message"])

    def test_an_end_that_is_refused_raises_after_the_kept_calls_went_out(self) -> None:
        sdk = TrainerSDK(self.platform.url, 7, retry_delays=())
        self.platform.answers = [503]
        with contextlib.redirect_stderr(io.StringIO()):
            sdk.report_progress(1, 1, {})
        self.platform.answers = [200, 422]
        with self.assertRaises(CallbackError) as caught:
            sdk.report_completed({})
        self.assertEqual(caught.exception.status, 422)
        self.assertFalse(sdk.ended)
        self.platform.calls.clear()
        sdk.report_completed({})
        self.assertEqual(len(self.platform.calls), 1, "nothing of before is sent again")

    def test_an_end_that_finds_no_answer_leaves_what_was_kept(self) -> None:
        sdk = TrainerSDK(self.platform.url, 7, patience=0, retry_delays=())
        self.platform.answers = [503, 503]
        with contextlib.redirect_stderr(io.StringIO()):
            sdk.report_progress(1, 1, {})
        with self.assertRaises(CallbackError):
            sdk.report_completed({})
        self.platform.calls.clear()
        sdk.flush()
        self.assertEqual([body["current_epoch"] for body in self.platform.bodies("progress")], [1])

    def test_kept_calls_do_not_hide_a_refusal(self) -> None:
        sdk = TrainerSDK(self.platform.url, 7, retry_delays=())
        self.platform.answers = [404]
        with self.assertRaises(CallbackError):
            sdk.report_progress(1, 3, {})


class Ending(SdkCase):
    def test_exception_is_reported_with_traceback(self) -> None:
        with self.assertRaises(ZeroDivisionError):
            with self.sdk:
                self.sdk.report_progress(2, 5, {"loss": 1.0})
                1 / 0
        body = self.platform.bodies("completion")[0]
        self.assertEqual((body["status"], body["exit_code"], body["total_epochs_completed"]), ("failed", 1, 2))
        self.assertEqual(body["error_message"], "[UnknownError] ZeroDivisionError: division by zero")
        self.assertIn("1 / 0", body["traceback"])

    def test_success_reports_nothing_by_itself(self) -> None:
        with self.sdk:
            pass
        self.assertEqual(self.platform.calls, [])

    def test_exception_after_completion_is_not_a_second_end(self) -> None:
        with self.assertRaises(ValueError):
            with self.sdk:
                self.sdk.report_completed({})
                raise ValueError("cleaning up")
        self.assertEqual(len(self.platform.bodies("completion")), 1)

    def test_callback_failure_ends_with_code_2(self) -> None:
        self.platform.answers = [404]
        with contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as caught:
            with self.sdk:
                self.sdk.report_started(1)
        self.assertEqual(caught.exception.code, 2)

    def test_sys_exit_with_a_code_is_a_failure(self) -> None:
        with self.assertRaises(SystemExit):
            with self.sdk:
                raise SystemExit(3)
        self.assertEqual(self.platform.bodies("completion")[0]["exit_code"], 3)

    def test_interrupt_is_left_to_the_exit_status(self) -> None:
        with self.assertRaises(KeyboardInterrupt):
            with self.sdk:
                raise KeyboardInterrupt
        self.assertEqual(self.platform.calls, [])


class Types(unittest.TestCase):
    def test_classification(self) -> None:
        cases = [
            (DatasetError("x"), "DatasetError"),
            (MemoryError(), "ResourceError"),
            (RuntimeError("CUDA out of memory. Tried to allocate"), "ResourceError"),
            (OSError(28, "No space left on device"), "ResourceError"),
            (ConnectionRefusedError("no"), "NetworkError"),
            (ModuleNotFoundError("No module named 'torch'"), "FrameworkError"),
            (RuntimeError("checkpoint is truncated"), "CheckpointError"),
            (FileNotFoundError("/data/x.png"), "DatasetError"),
            (ValueError("x"), "UnknownError"),
        ]
        for error, expected in cases:
            self.assertEqual(classify(error), expected, error)

    def test_description(self) -> None:
        self.assertEqual(describe(KeyError("lr")), "[UnknownError] KeyError: 'lr'")
        self.assertEqual(describe(MemoryError()), "[ResourceError] MemoryError")

    def test_printing_without_callback_url(self) -> None:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            TrainerSDK(callback_url="").report_progress(1, 2, {"loss": float("nan")})
        progress = [line for line in out.getvalue().splitlines() if line.startswith("[trainyard] progress ")]
        self.assertIsNone(json.loads(progress[0].split(" ", 2)[2])["metrics"]["loss"])

    def test_job_id_is_needed_to_send(self) -> None:
        with mock.patch.dict(os.environ, {}, clear=True):
            for job_id in ("", "seven"):
                with self.assertRaisesRegex(ConfigError, "JOB_ID"):
                    TrainerSDK("http://127.0.0.1:1/api/v1", job_id)


class Config(unittest.TestCase):
    def test_variables_win_over_config_and_defaults(self) -> None:
        config = TrainerConfig.from_env(
            {
                "JOB_ID": "3",
                "EPOCHS": "2",
                "TASK_TYPE": "object_detection",
                "CONFIG": json.dumps({"epochs": 9, "batch": 4, "learning_rate": 0.02, "imgsz": 96, "device": "cpu"}),
            }
        )
        self.assertEqual((config.job_id, config.epochs, config.batch_size), (3, 2, 4))
        self.assertEqual((config.learning_rate, config.imgsz, config.device), (0.02, 96, "cpu"))
        self.assertEqual(config.task_type, "detection")
        self.assertTrue(config.checkpoint_dir.is_absolute())

    def test_advanced_settings_of_both_places(self) -> None:
        document: Dict[str, Any] = {
            "epochs": 1,
            "mosaic": 0.5,
            "optimizer": {"type": "sgd"},
            "scheduler.warmup_epochs": 1,
            "advanced_config": {"optimizer": {"momentum": 0.9}, "mixed_precision": None},
        }
        config = TrainerConfig.from_env({"CONFIG": json.dumps(document)})
        self.assertEqual(
            config.advanced,
            {"mosaic": 0.5, "optimizer": {"type": "sgd", "momentum": 0.9}, "scheduler": {"warmup_epochs": 1}},
        )

    def test_bad_values_name_the_setting(self) -> None:
        cases = {
            "EPOCHS": "0",
            "BATCH_SIZE": "many",
            "LEARNING_RATE": "1.5",
            "IMGSZ": "12.5",
            "CONFIG": "{",
            "TASK_TYPE": "translation",
            "JOB_ID": "x",
        }
        for name, value in cases.items():
            with self.assertRaisesRegex(ConfigError, name):
                TrainerConfig.from_env({name: value})
        for document in ({"learning_rate": "fast"}, {"batch": True}, {"advanced_config": []}, [1]):
            with self.assertRaisesRegex(ConfigError, "CONFIG"):
                TrainerConfig.from_env({"CONFIG": json.dumps(document)})

    def test_dataset_must_exist(self) -> None:
        for env in ({}, {"LOCAL_DATASET_PATH": "/nowhere/at/all"}):
            with self.assertRaisesRegex(DatasetError, "LOCAL_DATASET_PATH"):
                TrainerConfig.from_env(env).require_dataset()


if __name__ == "__main__":
    unittest.main()

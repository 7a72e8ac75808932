# A trainer of the chaos suite: epochs, numbered lines, perhaps children, and the end that it was told.
import os
import signal
import subprocess
import sys
import time

from trainyard_sdk import TrainerSDK

epochs = int(os.environ["EPOCHS"])
pace = float(os.environ["CHAOS_PACE"])
children = os.environ["CHAOS_CHILDREN"]
resumes = os.environ["CHAOS_RESUMES"]
end, _, number = os.environ["CHAOS_END"].partition(" ")
attempt = os.environ["TRAINYARD_ATTEMPT"]

if children == "child":
    subprocess.Popen(["sleep", "3600"])
elif children == "session":
    subprocess.Popen(["sleep", "3600"], start_new_session=True)
elif children == "daemon":
    script = "(setsid sh -c 'trap \"\" TERM; sleep 3600; sleep 3600' > /dev/null 2>&1 &)"
    environment = {"PATH": "/usr/bin:/bin"} if os.environ["CHAOS_BARE"] else None
    subprocess.run(["sh", "-c", script], env=environment, check=True)

first = 1
found = os.environ.get("RESUME_FROM") if resumes else None
if found:
    with open(found) as file:
        first = int(file.read()) + 1
last = os.path.join(os.environ["CHECKPOINT_DIR"], "last.pt")

sdk = TrainerSDK(keep_undelivered=True, patience=600, retry_delays=(0.1, 0.3, 0.5))
sdk.report_started(total_epochs=epochs)
for epoch in range(first, epochs + 1):
    time.sleep(pace)
    print("line", attempt, epoch, flush=True)
    sdk.report_progress(epoch, epochs, {"loss": 1.0 / epoch})
    if resumes:
        # A checkpoint says that all epochs up to it are reported: what the SDK keeps for later goes first.
        sdk.flush(patience=600)
        try:
            with open(last + ".part", "w") as file:
                file.write(str(epoch))
            os.replace(last + ".part", last)
        except OSError as error:
            print("no checkpoint:", error, file=sys.stderr, flush=True)
sdk.flush(patience=600)
while end == "never":
    time.sleep(1)
if end == "signal":
    os.kill(os.getpid(), int(number))
    time.sleep(60)
if number == "0":
    sdk.report_completed(final_metrics={"loss": 1.0 / epochs})
sys.stdout.flush()
os._exit(int(number))

"""Callbacks that report a run to Trainyard from inside a script of the user's own, run as framework `command`.

    from trainyard_sdk.callbacks.ultralytics import attach          # attach(model)
    from trainyard_sdk.callbacks.lightning import TrainyardCallback  # Trainer(callbacks=[TrainyardCallback()])
    from trainyard_sdk.callbacks.huggingface import TrainyardCallback  # Trainer(..., callbacks=[TrainyardCallback()])

Each reads CALLBACK_URL and JOB_ID; without them it prints what it would send, so that the script also runs by hand.
Only the module of the framework at hand imports that framework.
"""

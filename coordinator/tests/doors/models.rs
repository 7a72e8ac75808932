//! What can be trained, as clients ask for it.

use serde_json::{Value, json};

use crate::world::{World, keys};

async fn names(world: &World, query: &str) -> Vec<(String, String)> {
    let (status, models) = world.get(&format!("/models/list{query}")).await;
    assert_eq!(status, 200, "{models}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let models = models.as_array().unwrap().iter();
    models
        .map(|model| (text(&model["framework"]), text(&model["model_name"])))
        .collect()
}

#[tokio::test]
async fn models_are_listed_by_framework_and_task() {
    let world = World::start().await;
    let all = names(&world, "").await;
    assert!(all.contains(&("sklearn".into(), "mlp".into())));
    assert!(all.contains(&("ultralytics".into(), "yolo11n".into())));
    let own = names(&world, "?framework=sklearn").await;
    assert!(own.iter().all(|(framework, _)| framework == "sklearn"));
    let short = names(&world, "?task_type=pose&supported_only=false").await;
    assert_eq!(
        short,
        names(&world, "?task_type=pose_estimation&supported_only=false").await
    );
    assert!(short.contains(&("ultralytics".into(), "yolo11n".into())));
    assert!(!short.contains(&("sklearn".into(), "mlp".into())));
    assert!(names(&world, "?task_type=knitting").await.is_empty());
    assert_eq!(world.get("/models/list?supported_only=maybe").await.0, 422);
}

#[tokio::test]
async fn one_model_and_a_trainers_capabilities_are_told() {
    let world = World::start().await;
    let (status, model) = world
        .get("/models/get?framework=sklearn&model_name=mlp")
        .await;
    assert_eq!(status, 200);
    let expected = [
        "framework",
        "model_name",
        "task_types",
        "description",
        "supported",
    ];
    assert_eq!(keys(&model), expected);
    assert_eq!(world.get("/models/sklearn/mlp").await, (200, model));
    let (status, capabilities) = world.get("/models/capabilities/sklearn").await;
    assert_eq!(
        (status, &capabilities["framework"]),
        (200, &json!("sklearn"))
    );
    assert_eq!(capabilities["primary_metric"], "accuracy");
    assert_eq!(capabilities["models"][0]["model_name"], "mlp");
}

#[tokio::test]
async fn what_is_not_known_is_404_and_says_what_is() {
    let world = World::start().await;
    for path in [
        "/models/capabilities/caffe",
        "/models/list?framework=caffe",
        "/models/get?framework=caffe&model_name=x",
        "/models/caffe/x",
    ] {
        let (status, answer) = world.get(path).await;
        assert_eq!(status, 404, "{path}");
        let words = answer["detail"].as_str().unwrap();
        assert!(
            words.starts_with("Framework 'caffe' not found; known are "),
            "{words}"
        );
    }
    let (status, answer) = world.get("/models/sklearn/svm").await;
    assert_eq!(status, 404);
    let words = answer["detail"].as_str().unwrap();
    assert!(
        words.starts_with("Model 'svm' not found in framework 'sklearn'"),
        "{words}"
    );
    assert_eq!(world.get("/models/get?framework=sklearn").await.0, 422);
}

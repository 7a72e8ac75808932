//! What is fetched and stored by signed links, and every way in that is closed.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use reqwest::Method;
use serde_json::json;
use tests::wait::until;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;
use trainyard_proto::v1::{self, agent_service_client::AgentServiceClient};

use crate::{
    agent::{Agent, exited},
    datasets::{add, detail, folders, manifest, snapshot_job, snapshot_of},
    world::{World, command},
};

#[tokio::test]
async fn only_the_live_attempt_gets_ways_and_they_serve_the_files() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 400);
    fs::write(set.path().join("cat/ü #1%.png"), "odd name").unwrap();
    add(&world, "pets", set.path().to_str().unwrap()).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let id = snapshot_of(&world, &snapshot_job("pets")).await;
    let start = agent.start().await;
    let snapshot = start.snapshot.clone().unwrap();
    assert_eq!(
        (snapshot.snapshot_id, snapshot.file_count),
        (id.clone(), 801)
    );
    let files = manifest(&world, &start, "").await.unwrap();
    assert_eq!(files.len(), 801);
    let odd = files.iter().find(|file| file.path.contains('#')).unwrap();
    for file in [&files[0], &files[700], odd] {
        let answer = world
            .http
            .get(format!("http://{}{}", world.address, file.url))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{}", file.url);
        assert_eq!(answer.content_length(), Some(file.size_bytes));
        let bytes = answer.bytes().await.unwrap();
        assert_eq!(blake3::hash(&bytes).as_bytes().as_slice(), file.digest);
    }
    let mut stranger = start.clone();
    stranger.secret = "guessed".to_owned();
    assert_eq!(
        manifest(&world, &stranger, "").await.unwrap_err().code(),
        Code::NotFound
    );
    let mut earlier = start.clone();
    earlier.task = earlier.task.map(|task| v1::TaskKey {
        attempt: task.attempt + 1,
        ..task
    });
    assert_eq!(
        manifest(&world, &earlier, "").await.unwrap_err().code(),
        Code::NotFound
    );
    agent.report(exited(start.task.unwrap(), 0, 0)).await;
    agent.forget().await;
    assert_eq!(
        manifest(&world, &start, "").await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_link_is_good_for_one_file_and_for_reading_only() {
    let world = World::start().await;
    let outer = tempfile::tempdir().unwrap();
    let set = outer.path().join("set");
    folders(&set, 3);
    fs::write(outer.path().join("secret"), "secret").unwrap();
    add(&world, "pets", set.to_str().unwrap()).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    snapshot_of(&world, &snapshot_job("pets")).await;
    let start = agent.start().await;
    let files = manifest(&world, &start, "").await.unwrap();
    let url = format!("http://{}{}", world.address, files[0].url);
    let status = async |method: Method, url: &str| {
        let answer = world
            .http
            .request(method, url)
            .body("x")
            .send()
            .await
            .unwrap();
        answer.status().as_u16()
    };
    assert_eq!(status(Method::GET, &url).await, 200);
    let (bare, query) = url.split_once('?').unwrap();
    for forged in [
        bare.to_owned(),
        url.replace("0000.png", "0001.png"),
        url.replace("expires=", "expires=9"),
        url.replace("cat/0000.png", "..%2F..%2Fsecret"),
        url.replace("cat/0000.png", "%2e%2e/secret"),
        format!("{bare}?{}", query.replace("signature=", "signature=0")),
        format!("{bare}?expires=99999999999&signature=zz"),
        format!(
            "http://{}/api/v1/files/artifacts/snapshots/x/metadata.json?{query}",
            world.address
        ),
    ] {
        let told = status(Method::GET, &forged).await;
        assert!(matches!(told, 403 | 404), "{told} for {forged}");
    }
    assert_eq!(
        status(Method::PUT, &url).await,
        403,
        "a link to read is none to write"
    );
    // What the signature allows is still opened inside the folder only.
    fs::remove_file(set.join("cat/0000.png")).unwrap();
    symlink(outer.path().join("secret"), set.join("cat/0000.png")).unwrap();
    let answer = world.http.get(&url).send().await.unwrap();
    assert_eq!(answer.status(), 404, "the file of the snapshot is gone");
    let told = answer.text().await.unwrap();
    assert!(
        told.contains("leads out of its folder") && !told.contains("secret\""),
        "{told}"
    );
}

#[tokio::test]
async fn a_dataset_with_a_link_that_leads_out_is_refused_by_name() {
    let world = World::start().await;
    let set = tempfile::tempdir().unwrap();
    folders(set.path(), 3);
    symlink("/etc/hostname", set.path().join("cat/host.png")).unwrap();
    let body = json!({"id": "pets", "storage_path": set.path(), "format": "imagefolder"});
    assert_eq!(world.post_json("/datasets", &body).await.0, 200);
    let (status, answer) = world
        .post_json("/training/jobs", &snapshot_job("pets"))
        .await;
    assert_eq!(status, 400, "{answer}");
    assert!(
        detail(&answer).contains("'cat/host.png' leads out of its folder"),
        "{answer}"
    );
}

#[tokio::test]
async fn places_that_users_may_not_name_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (allowed, other) = (root.path().join("allowed"), root.path().join("other"));
    folders(&allowed.join("set"), 2);
    folders(&other, 2);
    symlink(&other, allowed.join("link")).unwrap();
    let roots = allowed.display().to_string();
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        config.datasets.local_roots = roots;
    });
    let world = world.await;
    let refused = async |path: String, words: &str| {
        let body = json!({"id": "x", "storage_path": path});
        let (status, answer) = world.post_json("/datasets", &body).await;
        assert_eq!(status, 400, "{path}: {answer}");
        assert!(detail(&answer).contains(words), "{path}: {answer}");
    };
    for path in [
        other.display().to_string(),
        format!("{}/../other", allowed.display()),
        format!("{}/link", allowed.display()),
        format!("file://{}", other.display()),
    ] {
        refused(path, "datasets.local_roots").await;
    }
    refused(format!("{}/nothing", allowed.display()), "does not exist").await;
    refused("set".to_owned(), "neither an absolute path nor a URL").await;
    add(&world, "fine", allowed.join("set").to_str().unwrap()).await;
    for url in [
        "http://127.0.0.1/",
        "http://localhost/x",
        "http://[::1]:8000/",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/",
        "http://192.168.0.1/",
        "http://172.20.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::ffff:10.0.0.1]/",
        "http://0.0.0.0/",
        "http://100.64.0.1/",
        "https://[fd00::1]/x",
    ] {
        refused(url.to_owned(), "datasets.allow_private_urls").await;
    }
    let free = World::start().await;
    let data = free.data();
    for path in [
        data.clone(),
        data.join("artifacts"),
        data.parent().unwrap().to_owned(),
    ] {
        let body = json!({"id": "x", "storage_path": path, "format": "yolo"});
        let (status, answer) = free.post_json("/datasets", &body).await;
        assert_eq!(status, 400, "{answer}");
        assert!(
            detail(&answer).contains("coordinator's own data"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_web_server_is_read_by_its_list_and_a_redirect_into_a_private_network_is_not_followed() {
    use axum::{
        Router,
        http::StatusCode,
        response::Redirect,
        routing::{any, get},
    };
    let cat = get(|| async { "a cat" });
    let sample = |text: &'static str| get(move || async move { text });
    let router = Router::new()
        .route(
            "/set/files.txt",
            get(|| async { "cat/1.png\ncat/2.png\ndog/1.png\ndog/2.png\n" }),
        )
        .route("/set/cat/1.png", cat)
        .route("/set/cat/2.png", sample("two"))
        .route("/set/dog/1.png", sample("three"))
        .route("/set/dog/2.png", sample("four"))
        .route("/set", any(|| async { StatusCode::METHOD_NOT_ALLOWED }))
        .route(
            "/away/files.txt",
            get(|| async { Redirect::temporary("http://169.254.169.254/latest/meta-data/") }),
        )
        .route("/away", any(|| async { StatusCode::METHOD_NOT_ALLOWED }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        config.datasets.allow_private_urls = "127.0.0.0/8".to_owned();
    });
    let world = world.await;
    add(&world, "web", &format!("http://{address}/set")).await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    snapshot_of(&world, &snapshot_job("web")).await;
    let start = agent.start().await;
    let files = manifest(&world, &start, "").await.unwrap();
    assert_eq!(files.len(), 4);
    assert!(
        files[0].url.starts_with("/api/v1/files/snapshots/"),
        "the agent asks the coordinator: {}",
        files[0].url
    );
    let got = world
        .http
        .get(format!("http://{}{}", world.address, files[0].url))
        .send()
        .await
        .unwrap();
    assert_eq!(got.text().await.unwrap(), "a cat");
    let body = json!({"id": "away", "storage_path": format!("http://{address}/away")});
    let (status, answer) = world.post_json("/datasets", &body).await;
    assert_eq!(status, 400, "{answer}");
    assert!(detail(&answer).contains("169.254.169.254"), "{answer}");
}

#[tokio::test]
async fn a_checkpoint_goes_to_the_store_by_a_link_of_its_own() {
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        config.storage.upload_mib = 1
    })
    .await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    let job = world.submit(&command()).await;
    let start = agent.run().await;
    let mut client = AgentServiceClient::new(world.channel().await);
    let ask = |filename: &str, size_bytes, secret: &str| {
        world.of_agent(v1::SignUploadRequest {
            task: start.task,
            secret: secret.to_owned(),
            filename: filename.to_owned(),
            size_bytes,
            upload: 0,
        })
    };
    let secret = start.secret.as_str();
    let upload = client.sign_upload(ask("best.pt", 7, secret)).await;
    let upload = upload.unwrap().into_inner();
    assert!(
        upload
            .location
            .ends_with(&format!("/artifacts/checkpoints/{job}/best.pt")),
        "{upload:?}"
    );
    let url = format!("http://{}{}", world.address, upload.url);
    let put = async |url: &str, body: Vec<u8>| {
        let answer = world.http.put(url).body(body).send().await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!(put(&url, vec![0; (1 << 20) + 1]).await, 413);
    assert!(!Path::new(&upload.location).exists());
    assert_eq!(put(&url, b"weights".to_vec()).await, 200);
    let own = format!("artifacts/uploads/{job}/1-0-best.pt");
    assert_eq!(fs::read(world.data().join(own)).unwrap(), b"weights");
    assert_eq!(
        put(&url.replace("best.pt", "last.pt"), b"x".to_vec()).await,
        403
    );
    assert_eq!(world.http.get(&url).send().await.unwrap().status(), 403);
    for (filename, size) in [
        ("../best.pt", 1),
        ("a/b.pt", 1),
        ("", 1),
        ("best.pt", 2 << 20),
    ] {
        let error = client
            .sign_upload(ask(filename, size, secret))
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{filename}");
    }
    let stranger = ask("best.pt", 1, "guessed");
    assert_eq!(
        client.sign_upload(stranger).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_checkpoint_for_which_there_is_no_room_is_refused_before_its_first_byte() {
    let world = World::set_up(tempfile::tempdir().unwrap(), |config| {
        config.storage.upload_mib = u32::MAX
    })
    .await;
    let mut agent = Agent::join(&world, "n1", 4).await;
    world.submit(&command()).await;
    let start = agent.run().await;
    let mut client = AgentServiceClient::new(world.channel().await);
    let size: u64 = 1 << 51;
    let ask = world.of_agent(v1::SignUploadRequest {
        task: start.task,
        secret: start.secret.clone(),
        filename: "last.pt".to_owned(),
        size_bytes: size,
        upload: 0,
    });
    let url = client.sign_upload(ask).await.unwrap().into_inner().url;
    let mut socket = TcpStream::connect(&world.address).await.unwrap();
    let head = format!("PUT {url} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut bytes = Vec::new();
    let reading = async {
        while !text.contains("storage.artifacts") {
            socket.read_buf(&mut bytes).await.unwrap();
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(30), reading).await;
    read.expect("it is refused");
    assert!(text.starts_with("HTTP/1.1 507 "), "{text}");
    let drafts = world.data().join("artifacts/.drafts");
    until("nothing is left of it", async || {
        let mut left = fs::read_dir(&drafts).unwrap();
        left.next().is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_user_stores_a_checkpoint_by_a_link_and_finds_it_listed() {
    let world = World::start().await;
    let job = world.submit(&command()).await;
    let put = async |url: &str, body: Vec<u8>| {
        let answer = world.http.put(url).body(body).send().await.unwrap();
        answer.status().as_u16()
    };
    let path = format!("/training/jobs/{job}/checkpoints/upload-url");
    let body =
        json!({"checkpoint_filename": "last.pt", "content_type": "application/octet-stream"});
    let (_, told) = world.post_json(&path, &body).await;
    assert_eq!(told["object_key"], format!("checkpoints/{job}/last.pt"));
    assert_eq!(
        put(told["upload_url"].as_str().unwrap(), b"last".to_vec()).await,
        200
    );
    let (_, listed) = world
        .get(&format!("/training/jobs/{job}/checkpoints"))
        .await;
    let names: Vec<_> = listed["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["filename"].clone())
        .collect();
    assert_eq!(names, ["last.pt"]);
    for (body, status) in [
        (json!({"checkpoint_filename": "../x"}), 422),
        (json!({}), 422),
    ] {
        assert_eq!(world.post_json(&path, &body).await.0, status);
    }
    assert_eq!(
        world
            .post_json("/training/jobs/99/checkpoints/upload-url", &body)
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn an_artifact_store_that_is_not_in_order_is_no_fault_of_who_lists_checkpoints() {
    let world = World::start().await;
    let job = world.submit(&command()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let folder = world.data().join("artifacts/checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), folder.join(job.to_string())).unwrap();
    let path = format!("/training/jobs/{job}/checkpoints");
    let (status, answer) = world.get(&path).await;
    assert_eq!(status, 500, "{answer}");
    let words = answer["detail"].as_str().unwrap();
    assert!(words.contains("an administrator has to look"), "{words}");
}

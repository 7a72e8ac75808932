//! `trainyard dataset`: what jobs can train on by name, and the snapshots that were made of it. Files are
//! never touched.

use clap::Subcommand;
use serde_json::{Value, json};
use trainyard_core::{resources::format_bytes, time::Timestamp};
use trainyard_proto::v1::{
    AddDatasetRequest, Dataset, DeleteSnapshotRequest, GetDatasetRequest, ListDatasetsRequest,
    ListSnapshotsRequest, RemoveDatasetRequest, Snapshot,
    dataset_service_client::DatasetServiceClient,
};

use super::Context;
use crate::{
    client::Client,
    clock,
    exit::Exit,
    output::{
        Screen, json,
        table::{Block, Lean, Table},
    },
    text,
};

/// Rows asked for at once.
const PAGE: u32 = 1_000;

/// What to do with datasets.
#[derive(Debug, Subcommand)]
pub(crate) enum DatasetCommand {
    /// Register a dataset: a folder of the coordinator's machine, or a URL
    ///
    /// trainyard dataset add pets /data/pets; trainyard dataset add pets s3://bucket/pets --format yolo
    Add {
        /// The name that jobs give as dataset_id
        name: String,
        /// A folder, or a URL with s3://, gs://, az://, http:// or https://
        #[arg(value_name = "PATH-or-URL")]
        place: String,
        /// dice, yolo, coco or imagefolder [default: what the files look like]
        #[arg(long, default_value = "", hide_default_value = true)]
        format: String,
        /// What it is for, such as detection
        #[arg(long, default_value = "", hide_default_value = true)]
        task_type: String,
        /// A few words for people
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
    },
    /// List datasets by name
    List,
    /// Show a dataset and its snapshots
    Show {
        /// Its name
        name: String,
    },
    /// Take a dataset out of the catalog; its files and its snapshots stay
    Remove {
        /// Its name
        name: String,
    },
    /// List snapshots, of one dataset or of all
    Snapshots {
        /// The dataset
        name: Option<String>,
    },
    /// Delete a snapshot that no open job needs; the dataset is not touched
    DeleteSnapshot {
        /// The snapshot, such as snap_0123456789ab
        id: String,
    },
}

/// Does it.
pub(crate) async fn run(context: &Context<'_>, command: DatasetCommand) -> anyhow::Result<Exit> {
    let mut client = context.client().await?;
    match command {
        DatasetCommand::Add {
            name,
            place,
            format,
            task_type,
            description,
        } => {
            let dataset = Dataset {
                dataset_id: name,
                storage_path: whole(&place)?,
                format,
                task_type,
                description,
                ..Dataset::default()
            };
            add(context, &mut client, dataset).await
        }
        DatasetCommand::List => list(context, &mut client).await,
        DatasetCommand::Show { name } => show(context, &mut client, name).await,
        DatasetCommand::Remove { name } => remove(context, &mut client, name).await,
        DatasetCommand::Snapshots { name } => {
            let found = snapshots(&mut client, name.unwrap_or_default()).await?;
            context.screen.show(
                || json!({"snapshots": found.iter().map(json::snapshot).collect::<Vec<_>>()}),
                || snapshot_table(&context.screen, &found, clock::now()),
            )?;
            Ok(Exit::Ok)
        }
        DatasetCommand::DeleteSnapshot { id } => delete_snapshot(context, &mut client, id).await,
    }
}

/// The coordinator knows no folder that one stands in here.
fn whole(place: &str) -> anyhow::Result<String> {
    if place.contains("://") {
        return Ok(place.to_owned());
    }
    Ok(std::path::absolute(place)?.display().to_string())
}

async fn add(context: &Context<'_>, client: &mut Client, dataset: Dataset) -> anyhow::Result<Exit> {
    let request = AddDatasetRequest {
        dataset: Some(dataset),
    };
    let answer = client
        .call(async |via| {
            DatasetServiceClient::new(via)
                .add_dataset(request.clone())
                .await
        })
        .await?;
    let dataset = answer.dataset.unwrap_or_default();
    context.screen.show(
        || json::dataset(&dataset),
        || {
            format!(
                "dataset {} registered: {}, {}",
                dataset.dataset_id, dataset.format, dataset.storage_path
            )
        },
    )?;
    Ok(Exit::Ok)
}

async fn list(context: &Context<'_>, client: &mut Client) -> anyhow::Result<Exit> {
    let mut found: Vec<Dataset> = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListDatasetsRequest {
            page_size: PAGE,
            page_token,
        };
        let answer = client
            .call(async |via| {
                DatasetServiceClient::new(via)
                    .list_datasets(request.clone())
                    .await
            })
            .await?;
        found.extend(answer.datasets);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    context.screen.show(
        || json!({"datasets": found.iter().map(json::dataset).collect::<Vec<_>>()}),
        || dataset_table(&context.screen, &found),
    )?;
    Ok(Exit::Ok)
}

async fn show(context: &Context<'_>, client: &mut Client, name: String) -> anyhow::Result<Exit> {
    let request = GetDatasetRequest {
        dataset_id: name.clone(),
    };
    let answer = client
        .call(async |via| {
            DatasetServiceClient::new(via)
                .get_dataset(request.clone())
                .await
        })
        .await?;
    let dataset = answer.dataset.unwrap_or_default();
    let found = snapshots(client, name).await?;
    context.screen.show(
        || {
            let mut shown = json::dataset(&dataset);
            if let Value::Object(keys) = &mut shown {
                let rows = found.iter().map(json::snapshot).collect();
                keys.insert("snapshots".to_owned(), rows);
            }
            shown
        },
        || page(&context.screen, &dataset, &found),
    )?;
    Ok(Exit::Ok)
}

async fn remove(context: &Context<'_>, client: &mut Client, name: String) -> anyhow::Result<Exit> {
    let request = RemoveDatasetRequest {
        dataset_id: name.clone(),
    };
    client
        .call(async |via| {
            DatasetServiceClient::new(via)
                .remove_dataset(request.clone())
                .await
        })
        .await?;
    context.screen.show(
        || json!({"dataset_id": name, "removed": true}),
        || format!("dataset {name} removed; its files and snapshots stay"),
    )?;
    Ok(Exit::Ok)
}

async fn delete_snapshot(
    context: &Context<'_>,
    client: &mut Client,
    id: String,
) -> anyhow::Result<Exit> {
    let request = DeleteSnapshotRequest {
        snapshot_id: id.clone(),
    };
    client
        .call(async |via| {
            DatasetServiceClient::new(via)
                .delete_snapshot(request.clone())
                .await
        })
        .await?;
    context.screen.show(
        || json!({"snapshot_id": id, "deleted": true}),
        || format!("snapshot {id} deleted; the dataset is as it was"),
    )?;
    Ok(Exit::Ok)
}

async fn snapshots(client: &mut Client, dataset_id: String) -> anyhow::Result<Vec<Snapshot>> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListSnapshotsRequest {
            dataset_id: dataset_id.clone(),
            page_size: PAGE,
            page_token,
        };
        let answer = client
            .call(async |via| {
                DatasetServiceClient::new(via)
                    .list_snapshots(request.clone())
                    .await
            })
            .await?;
        found.extend(answer.snapshots);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

fn dataset_table(screen: &Screen, datasets: &[Dataset]) -> String {
    if datasets.is_empty() {
        return "no datasets; register one with `trainyard dataset add NAME PATH-or-URL`"
            .to_owned();
    }
    let mut table = Table::new(
        screen,
        &[
            ("NAME", Lean::Left),
            ("FORMAT", Lean::Left),
            ("PLACE", Lean::Left),
            ("DESCRIPTION", Lean::Left),
        ],
    );
    for dataset in datasets {
        table.row(&[
            dataset.dataset_id.clone(),
            dataset.format.clone(),
            dataset.storage_path.clone(),
            dataset.description.clone(),
        ]);
    }
    table.render()
}

fn snapshot_table(screen: &Screen, snapshots: &[Snapshot], now: Timestamp) -> String {
    if snapshots.is_empty() {
        return "no snapshots; a job with a dataset_id makes one".to_owned();
    }
    let mut table = Table::new(
        screen,
        &[
            ("SNAPSHOT", Lean::Left),
            ("DATASET", Lean::Left),
            ("FILES", Lean::Right),
            ("SIZE", Lean::Right),
            ("SPLIT", Lean::Left),
            ("AGE", Lean::Right),
        ],
    );
    for snapshot in snapshots {
        table.row(&[
            snapshot.snapshot_id.clone(),
            snapshot.dataset_id.clone(),
            snapshot.file_count.to_string(),
            format_bytes(snapshot.total_bytes),
            split(&snapshot.split_json),
            text::age(snapshot.created_at.as_ref(), now),
        ]);
    }
    table.render()
}

/// Such as `train 80, val 20`.
fn split(json: &str) -> String {
    let split: Value = serde_json::from_str(json).unwrap_or_default();
    let counts = split.get("counts").and_then(Value::as_object);
    let parts = counts.into_iter().flatten();
    let parts: Vec<_> = parts
        .map(|(part, count)| format!("{part} {count}"))
        .collect();
    parts.join(", ")
}

fn page(screen: &Screen, dataset: &Dataset, snapshots: &[Snapshot]) -> String {
    let created = dataset.created_at.as_ref().map(text::rfc3339);
    let mut block = Block::default();
    block
        .add("dataset", dataset.dataset_id.clone())
        .add("place", dataset.storage_path.clone())
        .add("format", dataset.format.clone())
        .add("task", dataset.task_type.clone())
        .add("description", dataset.description.clone())
        .add("owner", dataset.owner.clone())
        .add("registered", created.unwrap_or_default());
    let block = block.render();
    format!(
        "{block}\n\n{}",
        snapshot_table(screen, snapshots, clock::now())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shows_its_size_and_its_parts() {
        let screen = Screen {
            json: false,
            terminal: false,
            colour: false,
            width: 100,
        };
        let snapshot = Snapshot {
            snapshot_id: "snap_0123456789ab".into(),
            dataset_id: "pets".into(),
            file_count: 20,
            total_bytes: 3 << 20,
            split_json: r#"{"counts":{"train":16,"val":4}}"#.into(),
            ..Snapshot::default()
        };
        let text = snapshot_table(&screen, &[snapshot], Timestamp(0));
        for word in [
            "snap_0123456789ab",
            "pets",
            "20",
            "3 MiB",
            "train 16, val 4",
        ] {
            assert!(text.contains(word), "{word}:\n{text}");
        }
    }

    #[test]
    fn a_folder_is_told_whole_and_a_url_as_it_is() {
        assert!(whole("sets/pets").unwrap().starts_with('/'));
        assert_eq!(whole("s3://b/p").unwrap(), "s3://b/p");
    }
}

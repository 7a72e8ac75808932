//! What ClearML is sent of an attempt: parameters in sections, scalars, artifacts, and how names are spelled.
//!
//! Pure. Knows no call and sends nothing. Used by the calls of ClearML.

use serde_json::json;

use super::{NAME, VALUE};
use crate::trackers::{
    feed::News,
    names::Names,
    refusals::Item,
    runs::{Run, cut, millis},
};

pub(super) fn artifact(key: &str, uri: &str) -> Item {
    Item {
        name: key.to_owned(),
        body: json!({"key": key, "type": "custom", "mode": "output", "uri": uri}),
    }
}

fn item(section: &str, name: &str, value: &str) -> Item {
    Item {
        body: json!({"section": section, "name": name, "value": cut(value, VALUE)}),
        name: format!("{section}/{name}"),
    }
}

/// Names with dots or dollars are paths in its database.
fn key(name: &str) -> String {
    cut(&name.replace('.', "/").replace('$', "_"), NAME)
}

/// Entries of one section.
fn items(section: &str, values: &[(String, String)]) -> Vec<Item> {
    let mut names = Names::default();
    names.of_report(values.iter().map(|(name, _)| name), key);
    let entry = |(name, value): &(String, String)| {
        let name = names.spell(name, key(name));
        item(section, &name, value)
    };
    values.iter().map(entry).collect()
}

fn facts(facts: &[(&'static str, String)]) -> Vec<Item> {
    let fact = |(name, value): &(&str, String)| {
        let name = name.trim_start_matches("trainyard.");
        item("trainyard", name, value)
    };
    facts.iter().map(fact).collect()
}

/// What the trainer's last word says.
pub(super) fn last_parameters(run: &Run<'_>) -> Vec<Item> {
    let of = |section: &str, values: Vec<(String, f64)>| {
        let text = |(name, value): (String, f64)| (name, value.to_string());
        let values: Vec<_> = values.into_iter().map(text).collect();
        items(section, &values)
    };
    let (_, best) = run.best_metrics();
    let mut found = facts(&run.last_facts());
    found.extend(of("final_metrics", run.final_metrics()));
    found.extend(of("best_metrics", best));
    found
}

pub(super) fn parameters(run: &Run<'_>) -> Vec<Item> {
    let mut found = facts(&run.facts());
    found.extend(items("General", &run.parameters()));
    found
}

/// JSON has no NaN, so such values are left out.
pub(super) fn events(task: &str, news: &News<'_>, names: &mut Names) -> Vec<Item> {
    let mut found = Vec::new();
    for (point, iteration) in news.points.iter().zip(news.iterations) {
        let report = &point.progress;
        names.of_report(report.values.keys(), series);
        let finite = report.values.iter().filter(|(_, value)| value.is_finite());
        for (name, value) in finite {
            let series = names.spell(name, series(name));
            let (metric, variant) = series.split_once('/').unwrap_or((&series, &series));
            let body = json!({
                "type": "training_stats_scalar",
                "task": task,
                "iter": iteration,
                "metric": metric,
                "variant": variant,
                "value": value,
                "timestamp": millis(report.at),
            });
            let name = name.clone();
            found.push(Item { name, body });
        }
    }
    found
}

/// Metric and variant: `metrics/mAP50` is variant `mAP50` of metric `metrics`, and `loss` is its own variant.
fn series(name: &str) -> String {
    match name.contains('/') {
        true => name.to_owned(),
        false => format!("{name}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use trainyard_core::spec::JobSpec;

    use super::*;
    use crate::trackers::runs::tests::{report, run, running};

    #[test]
    fn a_point_is_an_event_for_each_finite_value() {
        let values = [("loss", 0.5), ("metrics/mAP50(B)", 0.25), ("nan", f64::NAN)];
        let point = report(&values);
        let news = News {
            points: &[point],
            iterations: &[40],
            best: None,
            last: None,
        };
        let found = events("t", &news, &mut Names::default());
        let bodies = found.iter().map(|event| &event.body);
        let names: Vec<_> = bodies
            .map(|event| (event["metric"].as_str(), event["variant"].as_str()))
            .collect();
        let expected = [
            (Some("loss"), Some("loss")),
            (Some("metrics"), Some("mAP50(B)")),
        ];
        assert_eq!(names, expected);
        assert_eq!(found[0].body["iter"], 40);
        assert_eq!(found[0].body["timestamp"], 1_795_396_822_543_i64);
    }

    #[test]
    fn parameters_stand_in_sections_and_their_names_are_no_paths() {
        let job = running(JobSpec {
            advanced_config: Some(json!({"optimizer": {"name": "sgd"}, "optimizer/name": "adam"})),
            ..JobSpec::default()
        });
        let found = parameters(&run(&job, 0));
        let has = |section: &str, name: &str, value: &str| {
            let body = json!({"section": section, "name": name, "value": value});
            found.iter().any(|item| item.body == body)
        };
        assert!(has("General", "advanced_config/optimizer/name", "sgd"));
        assert!(has("General", "advanced_config/optimizer/name_2", "adam"));
        assert!(has("trainyard", "job_id", "7"), "{found:?}");
    }
}

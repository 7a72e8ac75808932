//! `docs/states.md` is written from the table of edges; this test keeps the two together.

use std::fmt::Write;

use super::{EDGES, JobState};

fn page() -> String {
    let mut page = String::from(
        "# The states of a job\n\nWritten from `core::job::EDGES`; a test fails where they differ.\n\n```mermaid\nstateDiagram-v2\n    [*] --> pending\n",
    );
    for (from, to) in EDGES {
        let restart = if from.is_terminal() {
            ": restart by a user"
        } else {
            ""
        };
        writeln!(page, "    {} --> {}{restart}", from.name(), to.name()).unwrap();
    }
    page.push_str(
        "```\n\n| state | HTTP contract | holds resources | terminal |\n|---|---|---|---|\n",
    );
    for state in JobState::ALL {
        let yes = |is: bool| if is { "yes" } else { "" };
        writeln!(
            page,
            "| {} | {} | {} | {} |",
            state.name(),
            state.contract_name(),
            yes(state.holds_resources()),
            yes(state.is_terminal())
        )
        .unwrap();
    }
    page
}

#[test]
fn the_page_of_states_shows_the_table_of_edges() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/states.md");
    if std::env::var_os("TRAINYARD_WRITE_DOCS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let shown = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        shown,
        page(),
        "run TRAINYARD_WRITE_DOCS=1 cargo test -p trainyard-core"
    );
}

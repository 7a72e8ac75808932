//! placeholder
use crate::{args::DemoArgs, exit::Exit, output::Screen};
pub(crate) async fn run(_args: DemoArgs, _screen: Screen) -> anyhow::Result<Exit> {
    Ok(Exit::Ok)
}

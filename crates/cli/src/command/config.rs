//! `rollcall config`.

use rollcall_server::config::Settings;

use crate::args::Config;
use crate::failure::Failure;
use crate::output;

pub(super) fn run(command: &Config) -> Result<(), Failure> {
    match command {
        Config::Check { file } => {
            let settings = Settings { config: Some(file.clone()), ..Settings::default() };
            let config = settings.resolve().map_err(|source| Failure::ConfigCheck { source })?;
            crate::logging::check(&config.log_level)?;
            output::print(&format!("{}: ok\n", file.display()))
        }
    }
}

//! Prints the description of all settings, from which two papers are made:
//!
//! ```text
//! cargo run -p weft-config --example settings -- md > docs/settings.md
//! cargo run -p weft-config --example settings -- toml > docs/examples/weftd.toml
//! ```

use std::process::ExitCode;
use weft_config::document::{defaults_toml, settings_md};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("md") => print!("{}", settings_md()),
        Some("toml") => print!("{}", defaults_toml()),
        _ => {
            eprintln!("say md or toml");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

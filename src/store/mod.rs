//! Where presence is kept.

mod settings;

pub use settings::Settings;

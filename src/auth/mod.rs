//! Credentials become principals: tokens of clients, keys of app servers, resume tokens.

mod api_key;
mod settings;

pub use api_key::ApiKey;
pub use settings::Settings;

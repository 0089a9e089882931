//! `[warehouse]`: where the orders pipeline reserves stock.

use headwater_connectors::units::Secret;
use headwater_runtime::{Endpoints, Section};
use serde::Deserialize;

/// The section.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WarehouseConfig {
    url: Secret,
}

impl WarehouseConfig {
    /// The warehouse's base address.
    pub(crate) fn url(&self) -> &str {
        self.url.expose()
    }
}

impl Section for WarehouseConfig {
    const NAME: &'static str = "warehouse";
    const DEFAULTS: &'static str = r#"url = "http://127.0.0.1:8090""#;

    fn problems(&self) -> Vec<String> {
        let rest = self.url().strip_prefix("http://").or_else(|| self.url().strip_prefix("https://"));
        let fits = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
        let problem = || "warehouse.url must be an address such as http://127.0.0.1:8090".to_owned();
        if fits { Vec::new() } else { vec![problem()] }
    }

    fn on_stack(stack: &Endpoints) -> Vec<(&'static str, String)> {
        vec![("url", stack.warehouse_url.clone())]
    }
}

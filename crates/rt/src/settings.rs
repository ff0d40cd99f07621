//! Settings from files, a mounted ConfigMap, the environment and flags; later ones win.
//!
//! Keys are Cilium's ConfigMap keys (`enable-l2-announcements`), so settings structs say `#[serde(rename_all = "kebab-case")]`.
//! `FAIRLEAD_ENABLE_L2_ANNOUNCEMENTS` in the environment is the same key.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, File, Map, Source, Value};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file of the ConfigMap directory cannot be read.
    #[error("settings in {} cannot be read", path.display())]
    Read {
        /// File or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A value is missing, of the wrong kind, or a file is malformed; the message names key and origin.
    #[error(transparent)]
    Value(#[from] Box<ConfigError>),
}

impl SettingsError {
    /// The closed word for the book.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Read { .. } => "SettingsUnreadable",
            Self::Value(_) => "InvalidSettings",
        }
    }
}

/// Where settings come from, in rising precedence.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// YAML, JSON or TOML files; each must exist.
    pub files: Vec<PathBuf>,
    /// A mounted ConfigMap: one file per key.
    pub config_dir: Option<PathBuf>,
    /// Environment, as pairs; only names that begin with `FAIRLEAD_` count.
    pub environment: Vec<(String, String)>,
    /// Flags, as key and text.
    pub flags: BTreeMap<String, String>,
}

impl Sources {
    /// Reads everything into `T`.
    ///
    /// # Errors
    /// [`SettingsError`] names the file or the key.
    pub fn load<T: DeserializeOwned>(&self) -> Result<T, SettingsError> {
        let mut builder = Config::builder();
        for file in &self.files {
            builder = builder.add_source(File::from(file.as_path()));
        }
        if let Some(dir) = &self.config_dir {
            builder = builder.add_source(Flat(read_dir(dir)?));
        }
        let environment = self.environment.iter().filter_map(|(name, text)| {
            let key = name
                .strip_prefix("FAIRLEAD_")?
                .to_lowercase()
                .replace('_', "-");
            let origin = format!("environment variable {name}");
            Some((key, Value::new(Some(&origin), text.as_str())))
        });
        builder = builder.add_source(Flat(environment.collect()));
        let flags = self.flags.iter().map(|(key, text)| {
            let origin = format!("flag --{key}");
            (key.clone(), Value::new(Some(&origin), text.as_str()))
        });
        builder = builder.add_source(Flat(flags.collect()));
        let settings = builder.build().map_err(Box::new)?;
        settings
            .try_deserialize()
            .map_err(|error| SettingsError::Value(Box::new(error)))
    }
}

/// The keys of a mounted ConfigMap and their texts, for who must know which keys were given at all.
///
/// # Errors
/// [`SettingsError`] names the file or folder that cannot be read.
pub fn config_map(dir: &Path) -> Result<BTreeMap<String, String>, SettingsError> {
    let values = read_dir(dir)?.into_iter();
    Ok(values
        .map(|(key, value)| (key, value.into_string().unwrap_or_default()))
        .collect())
}

/// Keys without nesting: dots in them mean nothing.
#[derive(Debug, Clone)]
struct Flat(Map<String, Value>);

impl Source for Flat {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// kubelet mounts a ConfigMap as symbolic links into a dated folder whose name begins with two dots; names with a leading dot are its own.
fn read_dir(dir: &Path) -> Result<Map<String, Value>, SettingsError> {
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| SettingsError::Read { path, source }
    };
    let mut values = Map::new();
    for entry in std::fs::read_dir(dir).map_err(fail(dir))? {
        let path = entry.map_err(fail(dir))?.path();
        let Some(key) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if key.starts_with('.') || !path.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(fail(&path))?;
        let origin = path.display().to_string();
        values.insert(key.to_owned(), Value::new(Some(&origin), text.trim_end()));
    }
    Ok(values)
}

/// For `#[serde(deserialize_with = ...)]`: a list, or a text whose items are parted by commas or white space.
///
/// # Errors
/// The deserializer's.
pub fn list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::List(items) => items,
        Either::Text(text) => text
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::Sources;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    struct Settings {
        enable_l2_announcements: bool,
        #[serde(default)]
        maglev_table_size: Option<u32>,
        #[serde(default, deserialize_with = "super::list")]
        devices: Vec<String>,
    }

    fn dir(name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("fairlead-rt-{}-{name}", std::process::id()));
        std::fs::create_dir_all(dir.join("..data")).unwrap();
        for (key, text) in files {
            std::fs::write(dir.join(key), text).unwrap();
        }
        dir
    }

    #[test]
    fn later_sources_win() {
        let dir = dir(
            "win",
            &[
                ("enable-l2-announcements", "false\n"),
                ("devices", "eth0 eth1,eth2"),
            ],
        );
        let sources = Sources {
            config_dir: Some(dir.clone()),
            environment: vec![
                ("FAIRLEAD_ENABLE_L2_ANNOUNCEMENTS".into(), "true".into()),
                ("FAIRLEAD_MAGLEV_TABLE_SIZE".into(), "251".into()),
                ("PATH".into(), "/bin".into()),
            ],
            flags: [("maglev-table-size".to_owned(), "1021".to_owned())].into(),
            ..Sources::default()
        };
        let settings: Settings = sources.load().unwrap();
        let keys = super::config_map(&dir).unwrap();
        assert_eq!(keys["devices"], "eth0 eth1,eth2");
        assert_eq!(keys.len(), 2, "kubelet's own folder is no key: {keys:?}");
        std::fs::remove_dir_all(dir).unwrap();
        assert_eq!(
            settings,
            Settings {
                enable_l2_announcements: true,
                maglev_table_size: Some(1021),
                devices: vec!["eth0".into(), "eth1".into(), "eth2".into()],
            }
        );
    }

    #[test]
    fn a_bad_value_names_its_key_and_origin() {
        let sources = Sources {
            environment: vec![("FAIRLEAD_ENABLE_L2_ANNOUNCEMENTS".into(), "perhaps".into())],
            ..Sources::default()
        };
        let error = sources.load::<Settings>().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("enable-l2-announcements"), "{text}");
        assert!(text.contains("FAIRLEAD_ENABLE_L2_ANNOUNCEMENTS"), "{text}");
        let missing = Sources {
            config_dir: Some("/nonexistent/config".into()),
            ..Sources::default()
        };
        let text = missing.load::<Settings>().unwrap_err().to_string();
        assert!(text.contains("/nonexistent/config"), "{text}");
    }
}

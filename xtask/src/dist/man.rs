//! Manual pages of the programs, from their command lines.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use kube_vip::VERSION;
use kube_vip::config::SETTINGS;

/// The section of the manual: programs of the system's administration.
const SECTION: &str = "8";

/// The page of the agent, whose flags are named with their variables and defaults.
pub(super) fn agent() -> std::io::Result<Vec<u8>> {
    let mut command = kube_vip::cli::command();
    for setting in SETTINGS {
        for name in setting.flags.iter().map(|name| name.trim_start_matches('!')) {
            let variable = setting.env.first().map(|name| format!(" Variable: {name}.")).unwrap_or_default();
            let default = match setting.default {
                "" => String::new(),
                default => format!(" Default: {default}."),
            };
            let help = format!("{}.{variable}{default}", setting.help.trim_end_matches('.'));
            command = command.mut_arg(name, |arg| arg.help(help));
        }
    }
    let mut environment = Roff::new();
    environment.control("SH", ["ENVIRONMENT"]);
    let note = "A variable precedes its flag, and a flag precedes the file that --config-file names. Without a flag are:";
    environment.text([roman(note)]);
    for setting in SETTINGS.iter().filter(|setting| setting.flags.is_empty()) {
        environment.control("TP", []);
        environment.text([bold(setting.env.join(", "))]);
        environment.text([roman(setting.help)]);
    }
    page(command, &environment)
}

pub(super) fn provider() -> std::io::Result<Vec<u8>> {
    page(kube_vip_cloud_provider::cli::command(), &Roff::new())
}

fn page(command: Command, environment: &Roff) -> std::io::Result<Vec<u8>> {
    let name = command.get_name().to_owned();
    let mut commands = Roff::new();
    commands.control("SH", ["COMMANDS"]);
    describe(&mut commands, &command, &name);
    let mut end = Roff::new();
    end.control("SH", ["EXIT STATUS"]);
    end.text([roman("0: success. 1: the configuration or the work failed. 2: the command line is wrong. Of `doctor`: 1: warnings. 2: errors.")]);
    let man =
        Man::new(command).section(SECTION).date("").source(format!("{name} {VERSION}")).manual("Kubernetes");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]);
    synopsis.text([bold(name.as_str()), roman(" ["), italic("flags"), roman("] "), italic("command")]);
    synopsis.to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    commands.to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    environment.to_writer(&mut page)?;
    end.to_writer(&mut page)?;
    Ok(page)
}

/// Each command that can be run, with its own flags: those of all commands are listed once.
fn describe(page: &mut Roff, command: &Command, path: &str) {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        let path = format!("{path} {}", below.get_name());
        if below.has_subcommands() {
            describe(page, below, &path);
        }
        page.control("TP", []);
        page.text([bold(path)]);
        page.text([roman(below.get_about().map(ToString::to_string).unwrap_or_default())]);
        let own = below.get_arguments().filter(|arg| !arg.is_hide_set());
        for (flag, help) in own.filter_map(|arg| Some((arg.get_long()?, arg.get_help()?))) {
            page.control("br", []);
            page.text([italic(format!("--{flag}")), roman(format!(": {help}"))]);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_flag_is_in_the_page_with_its_variable() {
        let page = String::from_utf8(super::agent().unwrap()).unwrap().replace("\\-", "-");
        for setting in super::SETTINGS {
            for name in setting.flags.first().into_iter().chain(setting.env.first()) {
                assert!(page.contains(name.trim_start_matches('!')), "{name}");
            }
        }
        let page = String::from_utf8(super::provider().unwrap()).unwrap();
        assert!(page.contains("kube\\-vip\\-cloud\\-provider pools"), "{page}");
    }
}

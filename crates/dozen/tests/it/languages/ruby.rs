//! Ruby: gems of the app's own folder and of `vendor/cache`, by a real Bundler.

use super::{place, tree};
use std::process::Command;

const GEMFILE: &str = "source \"https://rubygems.org\"\ngem \"railties\", path: \"gems/railties\"\ngem \"propshaft\", path: \"gems/propshaft\"\ngem \"wait\"\n";
const LOCK: &str = "PATH\n  remote: gems/propshaft\n  specs:\n    propshaft (1.0.0)\n\nPATH\n  remote: gems/railties\n  specs:\n    railties (7.1.0)\n\n\
    GEM\n  remote: https://rubygems.org/\n  specs:\n    wait (1.0.0)\n\nPLATFORMS\n  ruby\n  x86_64-linux\n  aarch64-linux\n\n\
    DEPENDENCIES\n  propshaft!\n  railties!\n  wait\n";
/// What stands in the place of Rails: it loads its gems, has a server, and makes an asset of what it was given.
const RAILS: &str = r##"#!/usr/bin/env ruby
require "bundler/setup"
require "socket"
require "wait"
require "railties"

if ARGV[0] == "assets:precompile"
  require "fileutils"
  FileUtils.mkdir_p(["public/assets", "tmp/cache"])
  File.write("tmp/cache/x", "x")
  File.write("public/assets/app.css", "#{ENV["RAILS_ENV"]} #{ENV["COLOUR"]} #{ENV["SECRET_KEY_BASE"]}")
else
  server = TCPServer.new("0.0.0.0", ENV.fetch("PORT"))
  loop do
    client = server.accept
    while (line = client.gets) && line != "\r\n" do end
    body = "#{Rails::WORD} #{Wait::FOR} #{File.read("public/assets/app.css")}"
    client.print "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: #{body.bytesize}\r\n\r\n#{body}"
    client.close
  end
end
"##;

fn gemspec(name: &str, version: &str) -> String {
    format!(
        "Gem::Specification.new {{ |s| s.name = \"{name}\"; s.version = \"{version}\"; s.summary = \"x\"; s.authors = [\"x\"]; \
         s.files = Dir[\"lib/**/*\"] }}\n"
    )
}

#[test]
fn an_app_gets_its_gems_and_assets_and_answers() {
    let specs = [gemspec("railties", "7.1.0"), gemspec("propshaft", "1.0.0")];
    let files = [
        ("Gemfile", GEMFILE),
        ("Gemfile.lock", LOCK),
        ("bin/rails", RAILS),
        ("config/application.rb", ""),
        ("gems/railties/railties.gemspec", specs[0].as_str()),
        ("gems/railties/lib/railties.rb", "module Rails; WORD = \"hello\"; end\n"),
        ("gems/propshaft/propshaft.gemspec", specs[1].as_str()),
        ("gems/propshaft/lib/propshaft.rb", ""),
        (".env", "COLOUR=green\n"),
    ];
    let place = place("ruby", &files);
    // A gem as `bundle cache` leaves it, since the registry's host is not to be reached from everywhere.
    let made = place.beside("wait");
    std::fs::create_dir_all(made.join("lib")).expect("made");
    std::fs::write(made.join("wait.gemspec"), gemspec("wait", "1.0.0")).expect("written");
    std::fs::write(made.join("lib/wait.rb"), "module Wait; FOR = 12; end\n").expect("written");
    std::fs::create_dir_all(place.folder().join("vendor/cache")).expect("made");
    let gem = place.folder().join("vendor/cache/wait-1.0.0.gem");
    let built = Command::new("gem").args(["build", "--silent", "wait.gemspec", "-o"]).arg(&gem).current_dir(&made).output().expect("runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.folder().join("bin/rails"), executable).expect("set");

    let up = place.up();
    assert_eq!(up.page("/"), "hello 12 production green placeholder");
    up.stop();
    let kept = tree(&place);
    assert!(kept.join("vendor/bundle/ruby").is_dir() && !kept.join("tmp/cache").exists());

    place.write("config/application.rb", "# changed\n");
    place
        .dozen(&["build"])
        .ok()
        .has(&["Ruby app detected", "$ bundle install", "Using wait 1.0.0", "$ bin/rails assets:precompile"])
        .lacks("Installing wait");
    place.write("Gemfile", format!("{GEMFILE}gem \"more\"\n"));
    place.dozen(&["build"]).coded(1).has(&["Gemfile.lock does not fit the Gemfile"]);
    place.write("Gemfile", format!("ruby \"9.9.9\"\n{GEMFILE}"));
    place.dozen(&["build"]).coded(1).has(&["the app asks for Ruby 9.9.9 (Gemfile:1)", "Found:", "`apt install ruby ruby-bundler`"]);
}

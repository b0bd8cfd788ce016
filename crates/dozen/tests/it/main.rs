mod dependencies;
mod logs;
mod port;
mod processes;

"""The Faust agents, the followers of compacted topics and the watchdog of an app."""

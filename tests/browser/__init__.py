"""The pages of the inbox in Chromium: a package, so that its tests share one browser."""

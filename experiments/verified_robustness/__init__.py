"""Study: networks that are provably robust, by the polyhedral envelope of their decision boundaries."""

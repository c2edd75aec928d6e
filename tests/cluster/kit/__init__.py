"""What the tests of the chart in a cluster are written with."""

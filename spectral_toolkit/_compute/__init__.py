"""How and where numbers are computed: devices, settings of torch, random state, several processes."""

"""GPU and CPU kernels, and the devices that compile and run them. Nothing here imports `bench` or
`collectives`: a kernel knows its peers only as rank numbers and addresses."""

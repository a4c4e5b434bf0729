"""Networks of MONAI under the rules of the zoo: any image size, samples independent of one another, one output.

Where a paper starts with 32 channels, these start with the plan's first width, and where it starts with 16, with half
of that, so that a plan at nnU-Net's full width (32) gives the paper's network. All but the attention U-Net halve every
axis regardless of the plan's strides and kernels; images are padded until the coarsest features have two voxels per
axis.

Three things differ from MONAI everywhere: instance norm replaces batch norm where that is fixed (a batch may hold one
sample, and tiles are predicted together); biases that a following norm of every channel cancels are left out, as are
layers whose results are not used; nothing is dropped at random (Myronenko's paper does, at a rate of 0.2), since such
draws would differ after a resumed run.

``adapter.py`` holds what they share; each network has a module of its own.
"""

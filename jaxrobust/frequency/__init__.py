"""Images in the frequency domain: cosine transform, spectral filters, band-limited noise, upsampling.

Coefficient ``[i, j]`` of the orthonormal discrete cosine transform is vertical frequency ``i`` and horizontal
frequency ``j``; a mask of coefficients is a boolean array ``[height, width]`` shared by all channels.
"""

from ._bands import band_masks as band_masks
from ._bands import band_noise as band_noise
from ._bands import band_noises as band_noises
from ._dct import dct as dct
from ._dct import dct2 as dct2
from ._dct import dct_matrix as dct_matrix
from ._dct import idct as idct
from ._dct import idct2 as idct2
from ._filters import energy_mask as energy_mask
from ._filters import filter_by_energy as filter_by_energy
from ._filters import filter_by_frequency as filter_by_frequency
from ._filters import frequency_mask as frequency_mask
from ._sensitivity import accuracy_change as accuracy_change
from ._sensitivity import noise_correct as noise_correct
from ._spectrum import energy as energy
from ._spectrum import radial_order as radial_order
from ._spectrum import spectral_energy as spectral_energy
from ._upsampling import empty_frequencies as empty_frequencies
from ._upsampling import upsample_dct as upsample_dct

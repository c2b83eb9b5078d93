// The ops of one instruction set.
#pragma once

#include "../kernels.h"

namespace alias_ops::ALIAS_OPS_ISA {

void separable2d(const Separable2dArgs&, const Runtime&);
void alias_l1(const AliasL1Args&, const Runtime&);
void alias_l1_gradient(const AliasL1GradientArgs&, const Runtime&);
void conv2d_alias_l1(const Conv2dAliasL1Args&, const Runtime&);
void conv2d_alias_l1_low_gradient(const Conv2dLowGradientArgs&, const Runtime&);
void conv2d_alias_l1_tap_gradient(const Conv2dTapGradientArgs&, const Runtime&);
void residual_l1_gradient(const ResidualL1GradientArgs&, const Runtime&);

}  // namespace alias_ops::ALIAS_OPS_ISA

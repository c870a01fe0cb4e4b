"""Numbers that rtnetlink's messages carry in their fixed fields, by their names in the kernel's headers.

Sources: include/uapi/linux/if.h (IFF), if_addr.h (IFA_F), neighbour.h (NTF, NUD), rtnetlink.h (RTM_F, RTN, RTNH_F,
RT_SCOPE); include/linux/socket.h (AF_BRIDGE).
"""

from __future__ import annotations

AF_BRIDGE = 7
IFF_UP, IFF_PROMISC = 0x1, 0x100
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x02, 0x08, 0x40
NTF_SELF, NTF_MASTER = 0x02, 0x04
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
RTM_F_CLONED = 0x200
RTN_UNICAST = 1
RTNH_F_ONLINK = 4
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_NOWHERE = 0, 253, 255
